-- Locks networks FOR KEY SHARE, in the order of their ASNs. PostgreSQL takes the same lock when it checks the foreign
-- key of a new address. Skips networks with a conflicting lock of another transaction. Returns the locked networks.
-- $1 bigint[]: ASNs of the networks
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.asn_number = ANY ($1)
ORDER BY a.asn_number
FOR KEY SHARE SKIP LOCKED
