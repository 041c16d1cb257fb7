-- Deletes answers past their lifetime.
-- $1 text: provider
-- $2 integer: longest lifetime of a value in seconds
-- $3 integer: lifetime of an absence in seconds
DELETE FROM @extschema@.block_answer
WHERE provider = $1 AND asked_at < now() - make_interval(secs => GREATEST($2, $3))
