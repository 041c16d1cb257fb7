-- Reason why an attached table, or the attached table of a partition, is not intact.
-- $1 oid: rel
SELECT t.not_intact_reason
FROM @extschema@.attached_tables t
WHERE t.rel IN (SELECT p.relid FROM pg_partition_ancestors($1::regclass) p UNION ALL SELECT $1)
  AND NOT t.is_intact
ORDER BY t.rel::oid
LIMIT 1
