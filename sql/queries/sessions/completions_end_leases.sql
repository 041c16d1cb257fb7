-- Ends the leases of rows after a process has visited the sessions of their addresses. The outcome of the visit says
-- what happens to the row of an address:
-- - 'done': all sessions of the address are complete, so the row is deleted.
-- - 'waits': the null columns of the sessions cannot be filled yet, so the row waits for an answer of a provider.
-- - 'more': more sessions of the address are left, so the row is due at once.
-- - 'faster': more sessions of the address are left, so the row is due at once. The next batch has twice as many
--   sessions.
-- - 'later': the visit failed, so the row is due after a backoff. The next batch has half as many sessions.
--
-- If the row was renewed during the visit (is_renewed), it is not deleted and does not wait. It is due at once, or
-- after the backoff if the visit failed.
-- $1 oid: OID of the table
-- $2 inet[]: addresses
-- $3 text[]: outcome for each address: done, waits, more, faster (like more, but with a larger batch) or later
-- $4 bigint: id of the process that holds the leases
-- $5 float8: longest backoff, in seconds
-- $6 text: error to store in the rows with the outcome 'later'
-- $7 bigint: number of attempts after which the batch cannot become smaller
WITH mine AS MATERIALIZED (
    SELECT c.ip_address, c.rel, c.attempts, c.is_renewed, g.outcome
    FROM @extschema@.session_completion c
    JOIN unnest($2, $3) AS g(ip, outcome) ON g.ip = c.ip_address
    WHERE c.ip_address = ANY ($2) AND c.rel = $1 AND c.leased_by = $4
    ORDER BY c.ip_address
    FOR UPDATE OF c
), done AS (
    DELETE FROM @extschema@.session_completion c
    USING mine m
    WHERE m.outcome = 'done' AND NOT m.is_renewed AND c.ip_address = m.ip_address AND c.rel = m.rel
)
UPDATE @extschema@.session_completion c
SET leased_by = NULL, is_renewed = false,
    attempts = CASE m.outcome WHEN 'later' THEN m.attempts + 1 WHEN 'more' THEN m.attempts
                    WHEN 'faster' THEN GREATEST(LEAST(m.attempts, $7) - 1, 0) ELSE 0 END,
    due_at = CASE
        WHEN m.outcome = 'later' THEN now() + make_interval(secs => LEAST(2 ^ LEAST(m.attempts, 20), $5))
        WHEN m.outcome IN ('more', 'faster') OR m.is_renewed THEN now() END,
    last_error = CASE m.outcome WHEN 'later' THEN $6 END,
    pending_since = CASE WHEN m.outcome IN ('later', 'more', 'faster') THEN c.pending_since WHEN m.is_renewed THEN now() END
FROM mine m
WHERE (m.outcome <> 'done' OR m.is_renewed) AND c.ip_address = m.ip_address AND c.rel = m.rel
