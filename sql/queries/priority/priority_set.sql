-- $1 oid: rel
-- $2 text: expression
-- $3 text: search_path
INSERT INTO @extschema@.session_priority (rel, expression, search_path, set_by)
SELECT c.oid, $2, $3, pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = $1
ON CONFLICT (rel) DO UPDATE
SET expression = excluded.expression, search_path = excluded.search_path, set_by = excluded.set_by, set_at = now()
