-- Replaces the documents of the sessions that a table has at these tuple ids. Runs as the table's owner, who may have no rights
-- on the extension's objects. Returns only sessions with the new document, because a trigger of the owner may have put the old
-- document back.
-- $1 tid[]: tuple ids of the sessions
-- $2 jsonb[]: new document of each session
WITH place AS MATERIALIZED (
    SELECT s.ctid AS place, g.document
    FROM @table@ s
    JOIN unnest($1, $2) AS g(place, document) ON g.place = s.ctid
    WHERE s.ctid = ANY ($1)
    FOR NO KEY UPDATE OF s
), updated AS (
    UPDATE @table@ s
    SET enrichment = p.document
    FROM place p
    WHERE s.ctid = p.place
    RETURNING s.ctid AS place, s.enrichment AS written, p.document)
SELECT u.place
FROM updated u
WHERE u.written = u.document
