-- Locks addresses in ascending order. The caller's next statement changes these addresses. Because of the locks, the
-- next statement sees the current versions of the rows. With older versions, the next statement could deadlock with a
-- transaction that waits for a newer version.
-- $1 inet[]: addresses
SELECT
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE
