-- Sets to null the address of the sessions that a table has at these tuple ids. If the column is NOT NULL, sets the address to an
-- empty text instead. The BEFORE trigger of the extension empties the snapshot columns. Runs as the table's owner, who may have no
-- rights on the extension's objects. Returns only sessions without an address, because a trigger of the owner may have put the
-- address back.
-- $1 tid[]: tuple ids of the sessions
WITH place AS MATERIALIZED (
    SELECT s.ctid AS place
    FROM @table@ s
    WHERE s.ctid = ANY ($1)
    FOR UPDATE OF s @wait@
), updated AS (
    UPDATE @table@ s
    SET @ip@ = @none@
    FROM place p
    WHERE s.ctid = p.place
    RETURNING s.ctid AS place, s.@ip@::pg_catalog.text AS ip)
SELECT u.place
FROM updated u
WHERE u.ip IS NULL OR u.ip OPERATOR(pg_catalog.=) ''
