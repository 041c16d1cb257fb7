-- Session tables with indexes that their waiting sessions may be found by: btrees of addresses; and whether a partition's
-- owner is that of its table. Partitions each for themselves; temporary tables belong to the session that made them. Names
-- are written as SQL wants them. Takes no lock on any of the tables: one that is locked must not hold up the others.
WITH RECURSIVE part (root, oid) AS (
    SELECT t.rel::oid, t.rel::oid FROM @extschema@.attached_tables t
    UNION
    SELECT p.root, i.inhrelid
    FROM part p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class child ON child.oid = i.inhrelid AND child.relispartition
)
SELECT c.oid::bigint, i.indexrelid::bigint, c.oid::regclass::text, c.relowner = root.relowner
FROM part p
JOIN pg_class root ON root.oid = p.root
JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r' AND c.relpersistence <> 't'
JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indnatts = 1 AND i.indkey[0] = 0
JOIN pg_attribute key ON key.attrelid = i.indexrelid AND key.attnum = 1 AND key.atttypid = 'inet'::regtype
JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = 'inet_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace
JOIN pg_am a ON a.oid = o.opcmethod AND a.amname = 'btree'
WHERE EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_proc'::regclass
      AND d.refobjid IN ('@extschema@.session_address(text)'::regprocedure, '@extschema@.session_address(inet)'::regprocedure))
ORDER BY 1, 2
