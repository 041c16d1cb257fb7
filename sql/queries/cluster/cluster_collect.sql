-- Collects one batch of counts from each node of a Citus cluster. Returns the number of counts.
SELECT @extschema@.collect_from_nodes()
