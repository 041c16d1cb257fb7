-- Returns the tuple ids of the rows in some pages of a table, and the addresses in these rows. Runs as the owner of the
-- table.
-- $1 tid: tuple id of the first row
-- $2 tid: tuple id after the last row
SELECT s.ctid, @host@(s.@ip@)::pg_catalog.text
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.>=) $1 AND s.ctid OPERATOR(pg_catalog.<) $2
