-- Lists rows that could not be used. Each is listed once, even if it is found again.
-- $1 text: procedure
-- $2 text[]: relation
-- $3 text[]: row key
-- $4 text[]: reason
-- $5 text[]: content
INSERT INTO @extschema@.rejected_row (procedure, relation, row_key, reason, content)
SELECT DISTINCT ON (g.relation, g.row_key, g.reason) $1, g.relation, g.row_key, g.reason, g.content
FROM unnest($2, $3, $4, $5) AS g(relation, row_key, reason, content)
ORDER BY g.relation, g.row_key, g.reason
ON CONFLICT (procedure, relation, row_key, reason) DO NOTHING
