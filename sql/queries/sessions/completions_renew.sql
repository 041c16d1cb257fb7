-- Marks the rows of these addresses as due, because an answer for the addresses has arrived. If a process has leased a
-- row, the row falls due when the process ends the lease.
-- $1 inet[]: addresses
WITH locked AS MATERIALIZED (
    SELECT c.ip_address, c.rel
    FROM @extschema@.session_completion c
    WHERE c.ip_address = ANY ($1)
    ORDER BY c.ip_address, c.rel
    FOR NO KEY UPDATE
)
UPDATE @extschema@.session_completion c
SET due_at = CASE WHEN c.leased_by IS NULL THEN now() ELSE c.due_at END,
    is_renewed = c.leased_by IS NOT NULL,
    attempts = CASE WHEN c.leased_by IS NULL THEN 0 ELSE c.attempts END,
    pending_since = COALESCE(c.pending_since, now())
FROM locked l
WHERE c.ip_address = l.ip_address AND c.rel = l.rel
