-- Rows of a table in some pages, and their addresses. Runs as the table's owner.
-- $1 tid: first place
-- $2 tid: place after the last
SELECT s.ctid, @host@(s.@ip@)::pg_catalog.text
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.>=) $1 AND s.ctid OPERATOR(pg_catalog.<) $2
