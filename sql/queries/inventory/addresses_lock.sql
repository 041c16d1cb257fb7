-- Locks addresses in order, before another statement changes them. That statement then sees the current row versions.
-- With older versions, it could deadlock with a transaction that waits for a newer version.
-- $1 inet[]: addresses
SELECT
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE
