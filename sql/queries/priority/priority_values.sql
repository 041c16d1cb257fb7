-- Computes the priorities of some rows of a table by the priority rule of the table. Runs as the owner of the table,
-- who wrote the rule. The expression of the rule is on lines of its own in this statement, because it may end in an SQL
-- comment.
-- $1 tid[]: tuple ids of the rows
SELECT s.ctid, CAST((
@expression@
) AS pg_catalog.float8)
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.=) ANY ($1)
