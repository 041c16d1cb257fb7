-- Sets to null the address of the sessions that a table has at these tuple ids. If the column is NOT NULL, sets the address to an
-- empty text instead. The BEFORE trigger of the extension empties the snapshot columns. Runs as the table's owner, who may have no
-- rights on the extension's objects.
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
