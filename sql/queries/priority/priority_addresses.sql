-- Rows of a table in some pages, and their addresses. Runs as the table's owner.
-- $1 first place tid, $2 place behind the last tid
SELECT s.ctid, @host@(s.@ip@)::pg_catalog.text
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.>=) $1 AND s.ctid OPERATOR(pg_catalog.<) $2
