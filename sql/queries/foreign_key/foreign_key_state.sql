-- Returns the tables whose foreign key to ip_inventory is not validated yet. Tests the table $1 and its partitions.
-- $1 oid: OID of the table
SELECT c.conrelid
FROM pg_constraint c
WHERE c.conname = 'cowrie_enrich_address' AND c.contype = 'f' AND NOT c.convalidated
  AND c.confrelid = '@extschema@.ip_inventory'::regclass
  AND (c.conrelid = $1 OR c.conrelid IN (SELECT t.relid FROM pg_partition_tree($1::regclass) t))
  AND EXISTS (SELECT FROM pg_class r WHERE r.oid = c.conrelid AND r.relkind = 'r')
ORDER BY 1
