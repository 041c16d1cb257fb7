-- Collects one batch of counts from each node of a Citus cluster. Returns the number of counts, and the number of nodes that
-- failed.
-- $1 boolean: leave out nodes that are not due after a failure
SELECT c.counts, c.failed_nodes
FROM @extschema@.collect_from_nodes($1) c
