-- Deletes the sessions that a table has at these tuple ids. Runs as the table's owner, who may have no rights on the
-- extension's objects.
-- $1 tid[]: tuple ids of the sessions
WITH place AS MATERIALIZED (
    SELECT s.ctid AS place
    FROM @table@ s
    WHERE s.ctid = ANY ($1)
    FOR UPDATE OF s @wait@
)
DELETE FROM @table@ s
USING place p
WHERE s.ctid = p.place
RETURNING s.ctid
