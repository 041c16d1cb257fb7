-- Locks these addresses in ascending order. Returns the addresses and their documents.
-- $1 inet[]: addresses
SELECT i.ip_address, i.enrichment
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE
