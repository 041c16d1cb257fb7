-- Whether any session of a table is at one of these places still, where the statement before this has put it: a trigger
-- that fires after it may have undone it. Runs as the table's owner.
-- $1 tid[]: place
SELECT true
FROM @table@ s
WHERE s.ctid = ANY ($1)
LIMIT 1
