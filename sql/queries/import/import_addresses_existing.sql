-- Locks those imported addresses that already exist, in ascending order, and returns their rows.
-- $1 inet[]: addresses
SELECT i.ip_address, i.current_asn, i.asn_last_verified, i.enrichment, i.enrichment_updated_at
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE
