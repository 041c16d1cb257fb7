-- Deletes the rows of session_completion that belong to dropped tables. Also makes rows due whose address is no longer
-- in ip_inventory: usually an answer about the address makes a row due, but such an address gets no answer. A process
-- then looks for sessions of the address, and deletes the row if there are none. Leaves out rows that another
-- transaction has locked.
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
