-- Sets options of an attached table. If an argument is null, its option keeps the present value. There is one
-- exception: if the owner of the table has changed since the options were set, null turns the option off.
-- $1 oid: OID of the table
-- $2 boolean: new value of the option run_triggers, or null
-- $3 boolean: new value of the option trust_input, or null
INSERT INTO @extschema@.session_table_option AS o (rel, run_triggers, trust_input, table_owner)
SELECT c.oid, COALESCE($2, false), COALESCE($3, false), pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = $1
ON CONFLICT (rel) DO UPDATE
SET run_triggers = COALESCE($2, o.run_triggers AND o.table_owner = excluded.table_owner),
    trust_input = COALESCE($3, o.trust_input AND o.table_owner = excluded.table_owner),
    table_owner = excluded.table_owner,
    set_at = now()
