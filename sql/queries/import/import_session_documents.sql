-- Replaces the documents of sessions whose present document cannot be stored as jsonb. Runs as the table's owner, who
-- may have no rights on the extension's objects.
-- $1 tid[]: tuple ids of the sessions
-- $2 oid[]: OID of the table or partition of each session
-- $3 text[]: new document of each session
UPDATE @table@ t
SET enrichment = g.document::@type@
FROM unnest($1, $2, $3) AS g(place, part, document)
WHERE t.ctid = ANY ($1) AND t.ctid = g.place AND t.tableoid = g.part
RETURNING t.ctid
