-- Deletes answers about blocks.
-- $1 text[]: provider of each answer
-- $2 text[]: block of each answer
DELETE FROM @extschema@.block_answer b
USING unnest($1, $2) AS g(provider, prefix)
WHERE b.provider = g.provider AND b.prefix = g.prefix::cidr
