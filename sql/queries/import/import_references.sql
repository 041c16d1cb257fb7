-- Foreign keys from one table to another. Names are quoted for SQL.
-- $1 oid: referencing
-- $2 oid: referenced
SELECT quote_ident(c.conname)
FROM pg_constraint c
WHERE c.conrelid = $1 AND c.confrelid = $2 AND c.contype = 'f' AND c.conparentid = 0
ORDER BY c.conname
