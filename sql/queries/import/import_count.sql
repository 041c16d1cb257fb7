-- Number of rows of a table. Runs as the table's owner.
SELECT pg_catalog.count(*) FROM @table@
