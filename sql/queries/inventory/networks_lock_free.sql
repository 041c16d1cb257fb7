-- Locks, in order, those networks that no other transaction has locked. Returns them.
-- $1 bigint[]: asn
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.asn_number = ANY ($1)
ORDER BY a.asn_number
FOR NO KEY UPDATE SKIP LOCKED
