-- Locks networks in the order of their ASNs. Skips networks that another transaction has locked. Returns the locked
-- networks.
-- $1 bigint[]: ASNs of the networks
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.asn_number = ANY ($1)
ORDER BY a.asn_number
FOR NO KEY UPDATE SKIP LOCKED
