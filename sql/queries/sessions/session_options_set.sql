-- Sets options of an attached table. Null keeps an option. If the owner of the table has changed since the options were
-- set, null turns an option off.
-- $1 oid: rel
-- $2 boolean: run_triggers
-- $3 boolean: trust_input
INSERT INTO @extschema@.session_table_option AS o (rel, run_triggers, trust_input, table_owner)
SELECT c.oid, COALESCE($2, false), COALESCE($3, false), pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = $1
ON CONFLICT (rel) DO UPDATE
SET run_triggers = COALESCE($2, o.run_triggers AND o.table_owner = excluded.table_owner),
    trust_input = COALESCE($3, o.trust_input AND o.table_owner = excluded.table_owner),
    table_owner = excluded.table_owner,
    set_at = now()
