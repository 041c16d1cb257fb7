-- Values of a rule for some rows of a table. Runs as the table's owner, who wrote the rule. The rule is on separate
-- lines, because it may end in a comment.
-- $1 tid[]: tuple ids of the rows
SELECT s.ctid, CAST((
@expression@
) AS pg_catalog.float8)
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.=) ANY ($1)
