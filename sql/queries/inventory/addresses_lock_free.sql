-- Locks addresses in ascending order. Skips addresses that another transaction has locked. Returns the locked
-- addresses.
-- $1 inet[]: addresses
SELECT i.ip_address
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE SKIP LOCKED
