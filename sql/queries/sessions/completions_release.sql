-- Ends the leases of processes that no longer run. If $2 is false, ends the leases of the processes in $1. If $2 is
-- true, ends all leases except the leases of the processes in $1. The rows are due again after a backoff, because code
-- of the table's owner may have ended the process.
-- $1 bigint[]: ids of the processes
-- $2 boolean: true to keep the leases of these processes, and to end all others
-- $3 float8: longest backoff, in seconds
WITH mine AS MATERIALIZED (
    SELECT c.ip_address, c.rel
    FROM @extschema@.session_completion c
    WHERE c.due_at IS NOT NULL AND c.leased_by IS NOT NULL AND (c.leased_by = ANY ($1)) <> $2
    ORDER BY c.ip_address, c.rel
    FOR NO KEY UPDATE
)
UPDATE @extschema@.session_completion c
SET leased_by = NULL, is_renewed = false, attempts = c.attempts + 1,
    due_at = now() + make_interval(secs => LEAST(2 ^ LEAST(c.attempts, 20), $3))
FROM mine m
WHERE c.ip_address = m.ip_address AND c.rel = m.rel
