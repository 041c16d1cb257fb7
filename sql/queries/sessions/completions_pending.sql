-- Returns the tables with pending rows, and the time when the first row of each table falls due. Other statements begin
-- with the text of this file. The recursion reads one index entry for each table. A query without recursion would read
-- all pending rows, and one table may have many of them.
WITH RECURSIVE pending (rel, due_at) AS (
    (SELECT c.rel, c.due_at FROM @extschema@.session_completion c
     WHERE c.due_at IS NOT NULL
     ORDER BY c.rel, c.due_at LIMIT 1)
    UNION ALL
    SELECT n.rel, n.due_at
    FROM pending p
    CROSS JOIN LATERAL (
        SELECT c.rel, c.due_at FROM @extschema@.session_completion c
        WHERE c.due_at IS NOT NULL AND c.rel > p.rel
        ORDER BY c.rel, c.due_at LIMIT 1) n
)
