-- Whether a table is attached itself, not as a partition.
-- $1 rel oid
SELECT count(*) FROM @extschema@.attached_tables t WHERE t.rel = $1 AND t.ip_column <> ''
