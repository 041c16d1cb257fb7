-- Number of pages of a table. Locks it.
-- $1 oid: rel
SELECT pg_relation_size($1) / current_setting('block_size')::bigint
