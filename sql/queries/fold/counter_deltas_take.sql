-- Deletes rows with the counters of prepared transactions, and returns the sum for each counter. Rows from another
-- version of the library are deleted but not returned, because their indexes belong to other counters.
-- $1 text: version of the library whose counts are returned
-- $2 bigint: maximum number of rows to take
WITH taken AS (
    DELETE FROM @extschema@.counter_delta
    WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM @extschema@.counter_delta d LIMIT $2))
    RETURNING library, counter_index, amount
)
SELECT t.counter_index, sum(t.amount)::bigint
FROM taken t
WHERE t.library = $1
GROUP BY t.counter_index
