-- Returns the current network and document of each address, in ascending order of the addresses.
-- $1 inet[]: addresses
SELECT i.ip_address, i.current_asn, i.enrichment
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
