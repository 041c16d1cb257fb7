-- Leases of a process that has ended. Code that ended its process is tried again after a backoff.
-- $1 leased by bigint
WITH mine AS MATERIALIZED (
    SELECT c.ip_address, c.rel
    FROM @extschema@.session_completion c
    WHERE c.due_at IS NOT NULL AND c.leased_by = $1
    ORDER BY c.ip_address, c.rel
    FOR NO KEY UPDATE
)
UPDATE @extschema@.session_completion c
SET leased_by = NULL, is_renewed = false, attempts = c.attempts + 1,
    due_at = now() + make_interval(secs => LEAST(2 ^ LEAST(c.attempts, 20), 300))
FROM mine m
WHERE c.ip_address = m.ip_address AND c.rel = m.rel
