-- Deletes the rows that belong to dropped tables. If the address of a row is not in ip_inventory, also marks this row
-- as due, because no answer will mark it. When a process later visits the sessions of such an address and finds none,
-- the process deletes the row. Leaves out rows that another transaction has locked.
WITH waiting AS MATERIALIZED (
    SELECT c.ip_address, c.rel, NOT EXISTS (SELECT FROM pg_class t WHERE t.oid = c.rel) AS is_dropped
    FROM @extschema@.session_completion c
    WHERE c.leased_by IS NULL
      AND (NOT EXISTS (SELECT FROM pg_class t WHERE t.oid = c.rel)
           OR c.due_at IS NULL AND NOT EXISTS (SELECT FROM @extschema@.ip_inventory i WHERE i.ip_address = c.ip_address))
    ORDER BY c.ip_address, c.rel
    FOR UPDATE OF c SKIP LOCKED
), deleted AS (
    DELETE FROM @extschema@.session_completion c
    USING waiting w
    WHERE w.is_dropped AND c.ip_address = w.ip_address AND c.rel = w.rel
)
UPDATE @extschema@.session_completion c
SET due_at = now(), pending_since = now()
FROM waiting w
WHERE NOT w.is_dropped AND c.ip_address = w.ip_address AND c.rel = w.rel
