-- Number of pages of a table. Locks it.
-- $1 oid: OID of the table
SELECT pg_relation_size($1) / current_setting('block_size')::bigint
