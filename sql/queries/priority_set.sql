-- $1 rel oid, $2 expression text, $3 search_path text
INSERT INTO @extschema@.session_priority (rel, expression, search_path) VALUES ($1, $2, $3)
ON CONFLICT (rel) DO UPDATE
SET expression = excluded.expression, search_path = excluded.search_path, set_at = now()
