-- Returns addresses and their documents, in ascending order of the addresses.
-- $1 inet: last address of the previous batch, or null for the first batch
-- $2 bigint: maximum number of addresses to return
SELECT i.ip_address, i.enrichment
FROM @extschema@.ip_inventory i
WHERE i.ip_address > COALESCE($1, '0.0.0.0/0')
ORDER BY i.ip_address
LIMIT $2
