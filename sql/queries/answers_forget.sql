-- Answers past every lifetime.
-- $1 and $2 lifetimes in seconds integer
DELETE FROM @extschema@.cymru_answer
WHERE asked_at < now() - make_interval(secs => GREATEST($1, $2))
