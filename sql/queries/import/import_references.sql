-- Returns the names of the foreign keys from one table to another. The names are quoted for SQL.
-- $1 oid: OID of the table that has the foreign keys
-- $2 oid: OID of the table that the foreign keys reference
SELECT quote_ident(c.conname)
FROM pg_constraint c
WHERE c.conrelid = $1 AND c.confrelid = $2 AND c.contype = 'f' AND c.conparentid = 0
ORDER BY c.conname
