-- Session tables with the index that their waiting sessions are found by: a btree of addresses; and whether it has the
-- sessions that wait for a type, and whether its owner is that of its partitioned table. Partitions each for themselves; temporary tables belong to the session that made them.
-- Names are written as SQL wants them.
SELECT c.oid::bigint, i.indexrelid::bigint, c.oid::regclass::text, waits.for_types, c.relowner = root.relowner
FROM @extschema@.attached_tables t
JOIN pg_class root ON root.oid = t.rel
CROSS JOIN LATERAL (
    SELECT t.rel::oid AS part UNION SELECT p.relid FROM pg_partition_tree(t.rel) p) p
JOIN pg_class c ON c.oid = p.part AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indnatts = 1 AND i.indkey[0] = 0
JOIN (VALUES
        ('((snapshot_asn IS NULL) OR (snapshot_country IS NULL))', false),
        ('((snapshot_asn IS NULL) OR (snapshot_country IS NULL) OR (snapshot_ip_type IS NULL))', true),
        ('(snapshot_asn IS NULL)', false)) waits(predicate, for_types)
    ON waits.predicate = pg_get_expr(i.indpred, i.indrelid)
JOIN pg_attribute key ON key.attrelid = i.indexrelid AND key.attnum = 1 AND key.atttypid = 'inet'::regtype
JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = 'inet_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace
JOIN pg_am a ON a.oid = o.opcmethod AND a.amname = 'btree'
WHERE EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_proc'::regclass
      AND d.refobjid IN ('@extschema@.session_address(text)'::regprocedure, '@extschema@.session_address(inet)'::regprocedure))
ORDER BY 1, 2
