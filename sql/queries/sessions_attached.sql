-- Session tables, and the columns that their addresses are in, written as SQL wants them. Temporary tables belong to the
-- session that made them.
SELECT t.rel::oid::bigint, t.rel::text, quote_ident(t.ip_column)
FROM @extschema@.attached_tables t
JOIN pg_class c ON c.oid = t.rel AND c.relpersistence <> 't'
ORDER BY 1
