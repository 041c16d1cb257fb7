-- Locks the keys of networks, in order, as the foreign key of a new address does. Returns the networks that it could
-- lock without waiting.
-- $1 bigint[]: ASNs of the networks
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.asn_number = ANY ($1)
ORDER BY a.asn_number
FOR KEY SHARE SKIP LOCKED
