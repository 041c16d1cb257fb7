-- Returns a row for each column of the tables with these names in a schema. Each row says whether the table can be imported, and
-- how many rows PostgreSQL estimates for the table. Each row also says whether the column is NOT NULL, and has the type of the
-- column in SQL syntax. A separate name of the type is set only if the type is a built-in base type. Takes no lock on the tables.
-- $1 oid: OID of the schema
-- $2 text[]: names of the tables
SELECT c.relname::text, c.oid, c.relkind IN ('r', 'p') AND c.relpersistence <> 't', c.reltuples::bigint,
       a.attname::text, a.attnotnull,
       CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' THEN t.typname::text END,
       format_type(a.atttypid, a.atttypmod)
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname, a.attnum
