-- Answers past every lifetime.
-- $1 provider text, $2 and $3 lifetimes in seconds integer
DELETE FROM @extschema@.block_answer
WHERE provider = $1 AND asked_at < now() - make_interval(secs => GREATEST($2, $3))
