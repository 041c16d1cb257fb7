-- Returns the number of pages of a table. Locks the table.
-- $1 oid: OID of the table
SELECT pg_relation_size($1) / current_setting('block_size')::bigint
