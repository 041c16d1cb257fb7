-- Returns whether a table is attached itself, and not as a partition.
-- $1 oid: OID of the table
SELECT count(*) FROM @extschema@.attached_tables t WHERE t.rel = $1 AND t.ip_column <> ''
