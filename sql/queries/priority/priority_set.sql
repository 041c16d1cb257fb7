-- Stores the rule that computes the priority of the sessions of a table.
-- $1 oid: OID of the table
-- $2 text: SQL expression that computes the priority
-- $3 text: search_path for the names in the expression
INSERT INTO @extschema@.session_priority (rel, expression, search_path, set_by)
SELECT c.oid, $2, $3, pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = $1
ON CONFLICT (rel) DO UPDATE
SET expression = excluded.expression, search_path = excluded.search_path, set_by = excluded.set_by, set_at = now()
