-- Returns a row if at least one session of a table is still at one of these tuple ids. The caller's previous statement
-- has updated the sessions and returned these tuple ids. A trigger that fired after the update may have changed or
-- deleted the sessions again. Runs as the table's owner.
-- $1 tid[]: tuple ids of the sessions
SELECT true
FROM @table@ s
WHERE s.ctid = ANY ($1)
LIMIT 1
