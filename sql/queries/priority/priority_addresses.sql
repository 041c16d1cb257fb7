-- Rows of a table in some pages, and their addresses. Runs as the table's owner.
-- $1 tid: tuple id of the first row
-- $2 tid: tuple id after the last row
SELECT s.ctid, @host@(s.@ip@)::pg_catalog.text
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.>=) $1 AND s.ctid OPERATOR(pg_catalog.<) $2
