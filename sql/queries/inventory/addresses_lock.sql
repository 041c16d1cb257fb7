-- Locks addresses in order, before another statement changes them. That one sees the rows as they are then: one that came
-- back to an older version could meet who waits there for the newer one.
-- $1 inet[]: ip
SELECT
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
ORDER BY i.ip_address
FOR NO KEY UPDATE
