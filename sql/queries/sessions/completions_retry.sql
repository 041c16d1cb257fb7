-- Marks the delayed rows of these tables as due now.
-- $1 oid[]: OIDs of the tables
WITH delayed AS MATERIALIZED (
    SELECT c.ip_address, c.rel
    FROM @extschema@.session_completion c
    WHERE c.rel = ANY ($1) AND c.due_at > now() AND c.leased_by IS NULL
    ORDER BY c.ip_address, c.rel
    FOR UPDATE
)
UPDATE @extschema@.session_completion c
SET due_at = now(), attempts = 0
FROM delayed d
WHERE c.ip_address = d.ip_address AND c.rel = d.rel
