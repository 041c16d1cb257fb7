-- Values of a rule for some rows of a table. Runs as the table's owner, who wrote the rule. The rule stands on lines of its
-- own, because it can end in a comment.
-- $1 tid[]: places
SELECT s.ctid, CAST((
@expression@
) AS pg_catalog.float8)
FROM @table@ s
WHERE s.ctid OPERATOR(pg_catalog.=) ANY ($1)
