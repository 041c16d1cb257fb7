-- Returns the owners of session tables with pending rows, and the time when the next row of each owner falls due.
-- Leaves out suspended owners. Deletes the pending rows of tables that were dropped or are no longer attached. Takes no
-- lock on any session table. The full statement is the text of completions_pending.sql, followed by this text.
-- $1 oid: OID of the role that owns the extension
, tables AS MATERIALIZED (
    SELECT p.rel, p.due_at, k.relowner AS owner, root.relowner = k.relowner AS is_of_one_owner,
           EXISTS (SELECT FROM pg_trigger t
                   WHERE t.tgrelid = k.oid AND t.tgfoid = '@extschema@.enrich_session()'::regprocedure) AS is_attached
    FROM pending p
    LEFT JOIN pg_class k ON k.oid = p.rel
    LEFT JOIN pg_class root ON root.oid = COALESCE(pg_partition_root(k.oid), k.oid)
), forgotten AS (
    DELETE FROM @extschema@.session_completion c
    WHERE c.ctid = ANY (ARRAY(
        SELECT d.ctid FROM @extschema@.session_completion d
        WHERE d.rel = ANY (ARRAY(SELECT t.rel FROM tables t WHERE NOT t.is_attached))
        LIMIT 10000
        FOR UPDATE SKIP LOCKED))
)
SELECT t.owner, bool_or(r.rolsuper OR r.oid = $1), bool_or(t.due_at <= now()),
       min(t.due_at) FILTER (WHERE t.due_at > now())
FROM tables t
JOIN pg_roles r ON r.oid = t.owner
WHERE t.is_attached AND t.is_of_one_owner
  AND NOT EXISTS (SELECT FROM @extschema@.suspended_owner s WHERE s.owner = r.rolname)
GROUP BY t.owner
