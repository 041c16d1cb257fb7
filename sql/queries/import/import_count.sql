-- Returns the number of rows of a table. Runs as the owner of the table.
SELECT pg_catalog.count(*) FROM @table@
