-- The shards of session tables on this node of a Citus cluster. Leaves out a shard that Citus is still copying to this
-- node: Citus lists a shard in pg_dist_placement when all its rows are there. A shard is recognised by the number at the
-- end of its name. Takes no lock on the shards.
SELECT DISTINCT c.oid
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_dist_placement p ON p.shardid = substring(c.relname FROM '_([0-9]{1,18})$')::bigint
JOIN pg_dist_local_group g ON g.groupid = p.groupid
WHERE t.tgfoid = '@extschema@.enrich_session()'::regprocedure
ORDER BY 1
