-- Sets the address of a table's sessions at these tuple ids to null, or to an empty text if the column is NOT NULL. The
-- BEFORE trigger of the extension empties the snapshot columns. Runs as the table's owner, who may have no rights on the
-- extension's objects.
-- $1 tid[]: tuple ids of the sessions
WITH place AS MATERIALIZED (
    SELECT s.ctid AS place
    FROM @table@ s
    WHERE s.ctid = ANY ($1)
    FOR UPDATE OF s @wait@
)
UPDATE @table@ s
SET @ip@ = @none@
FROM place p
WHERE s.ctid = p.place
RETURNING s.ctid
