-- Tables of these names in a schema, a row for each of their columns: whether it can be imported at all, about how many rows
-- it has, and of the column whether it is never null, whether its type is the server's own, and the type's name. Takes no
-- lock on them.
-- $1 schema oid, $2 names text[]
SELECT c.relname::text, c.oid::bigint, c.relkind IN ('r', 'p') AND c.relpersistence <> 't', c.reltuples::bigint,
       a.attname::text, a.atttypid::bigint, a.attnotnull,
       t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b', format_type(a.atttypid, a.atttypmod)
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname, a.attnum
