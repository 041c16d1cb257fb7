-- Returns a row if any session of a table is still at one of the given tuple ids, where the previous statement put it.
-- A trigger that fired after that statement may have undone its changes. Runs as the table's owner.
-- $1 tid[]: tuple ids of the sessions
SELECT true
FROM @table@ s
WHERE s.ctid = ANY ($1)
LIMIT 1
