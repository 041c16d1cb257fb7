-- Deletes expired answers of a provider about blocks of addresses.
-- $1 text: name of the provider
-- $2 integer: longest lifetime of an answer with data, in seconds
-- $3 integer: lifetime of an answer without data, in seconds
DELETE FROM @extschema@.block_answer
WHERE provider = $1 AND asked_at < now() - make_interval(secs => GREATEST($2, $3))
