-- Adds rows to rejected_row. Each of these rows describes a row that a procedure could not use. A row that a later call
-- of the procedure rejects again is not added a second time.
-- $1 text: name of the procedure
-- $2 text[]: table of each row
-- $3 text[]: key of each row
-- $4 text[]: reason why each row could not be used
-- $5 text[]: invalid values of each row
INSERT INTO @extschema@.rejected_row (procedure, relation, row_key, reason, content)
SELECT DISTINCT ON (g.relation, g.row_key, g.reason) $1, g.relation, g.row_key, g.reason, g.content
FROM unnest($2, $3, $4, $5) AS g(relation, row_key, reason, content)
ORDER BY g.relation, g.row_key, g.reason
ON CONFLICT (procedure, relation, row_key, reason) DO NOTHING
