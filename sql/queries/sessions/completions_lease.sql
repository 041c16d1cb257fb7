-- Leases rows that are due. All leased rows belong to one table of the owner $1. Chooses the table with the row that
-- has been due for the longest time. The full statement is the text of completions_pending.sql, followed by this text.
-- $1 oid: OID of the owner
-- $2 bigint: maximum number of rows to lease
-- $3 float8: duration of the lease, in seconds
-- $4 bigint: id of the process that gets the leases
, chosen AS MATERIALIZED (
    SELECT p.rel
    FROM pending p
    JOIN pg_class k ON k.oid = p.rel AND k.relowner = $1
    LEFT JOIN pg_class root ON root.oid = COALESCE(pg_partition_root(k.oid), k.oid)
    WHERE p.due_at <= now() AND root.relowner = k.relowner
      AND EXISTS (SELECT FROM pg_trigger t
                  WHERE t.tgrelid = k.oid AND t.tgfoid = '@extschema@.enrich_session()'::regprocedure)
    ORDER BY p.due_at
    LIMIT 1
)
UPDATE @extschema@.session_completion c
SET due_at = now() + make_interval(secs => $3), leased_by = $4, is_renewed = false
WHERE c.ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM @extschema@.session_completion d
    WHERE d.rel = (SELECT k.rel FROM chosen k) AND d.due_at <= now()
    ORDER BY d.due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED))
RETURNING c.rel, c.ip_address, c.attempts::bigint
