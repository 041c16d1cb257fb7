-- Describes how a table is attached. For a partition, describes how its partitioned table is attached. Returns the
-- names of the address column and the time column, plain and quoted for SQL, and whether the table is intact. Also
-- returns whether a role may read asn_inventory, and whether the role may read ip_inventory.
-- $1 oid: OID of the table
-- $2 oid: OID of the role
SELECT a.ip_column, a.time_column, quote_ident(a.ip_column), quote_ident(a.time_column), a.is_intact,
       has_table_privilege($2, '@extschema@.asn_inventory'::regclass, 'SELECT'),
       has_table_privilege($2, '@extschema@.ip_inventory'::regclass, 'SELECT')
FROM @extschema@.attached_columns($1::regclass) a
