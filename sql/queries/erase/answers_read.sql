-- Returns answers about blocks, in ascending order of provider and block, and the texts of each answer.
-- $1 text: provider of the last answer of the previous batch, or an empty text for the first batch
-- $2 text: block of the last answer of the previous batch, or null for the first batch
-- $3 bigint: maximum number of answers to return
SELECT b.provider, b.prefix::text, concat_ws(' ', b.network_name, b.document::text)
FROM @extschema@.block_answer b
WHERE (b.provider, b.prefix) > ($1, COALESCE($2::cidr, '0.0.0.0/0'))
ORDER BY b.provider, b.prefix
LIMIT $3
