-- Returns the state of the collection of counts: the number of nodes, the number of nodes whose last attempt failed, and the oldest
-- time of the last success of a node. A node without a success counts from the first attempt. Nodes that were removed from the
-- Citus cluster are left out.
SELECT count(*), count(*) FILTER (WHERE c.last_error IS NOT NULL), min(COALESCE(c.collected_at, c.added_at))
FROM @extschema@.cluster_node c
WHERE c.citus_node IS NOT NULL
