-- Returns the reason why an attached table is not intact. If the table is a partition, also tests the attached table to
-- which the partition belongs.
-- $1 oid: OID of the table
SELECT t.not_intact_reason
FROM @extschema@.attached_tables t
WHERE t.rel IN (SELECT p.relid FROM pg_partition_ancestors($1::regclass) p UNION ALL SELECT $1)
  AND NOT t.is_intact
ORDER BY t.rel::oid
LIMIT 1
