-- Returns 1 if the table itself is attached. Returns 0 for other tables, also for a partition of an attached table.
-- $1 oid: OID of the table
SELECT count(*) FROM @extschema@.attached_tables t WHERE t.rel = $1 AND t.ip_column <> ''
