-- Locks addresses in ascending order. If another transaction is storing a session with a foreign key to one of these
-- addresses, waits for this transaction.
-- $1 inet[]: addresses
SELECT count(*)
FROM (
    SELECT i.ip_address
    FROM @extschema@.ip_inventory i
    WHERE i.ip_address = ANY ($1)
    ORDER BY i.ip_address
    FOR UPDATE) locked
