-- Replaces documents of a table that jsonb cannot store. Runs as the table's owner, who may have no rights on the
-- extension's objects.
-- $1 tid[]: place
-- $2 oid[]: part
-- $3 text[]: document
UPDATE @table@ t
SET enrichment = g.document::@type@
FROM unnest($1, $2, $3) AS g(place, part, document)
WHERE t.ctid = ANY ($1) AND t.ctid = g.place AND t.tableoid = g.part
RETURNING t.ctid
