-- Describes how a table is attached. For a partition, describes how its partitioned table is attached. Returns the
-- names of the columns, plain and quoted for SQL. Also returns whether the table is intact, and whether a role may read
-- the names of networks, and the inventory of addresses.
-- $1 oid: rel
-- $2 oid: role
SELECT a.ip_column, a.time_column, quote_ident(a.ip_column), quote_ident(a.time_column), a.is_intact,
       has_table_privilege($2, '@extschema@.asn_inventory'::regclass, 'SELECT'),
       has_table_privilege($2, '@extschema@.ip_inventory'::regclass, 'SELECT')
FROM @extschema@.attached_tables a
WHERE a.rel = $1 OR a.rel IN (SELECT p.relid FROM pg_partition_ancestors($1::regclass) p)
ORDER BY a.ip_column, a.time_column
LIMIT 1
