-- Adds the foreign key from a session table to ip_inventory, with the caller's rights on the session table.
-- $1 oid: OID of the table
-- $2 boolean: true to create also the foreign key of the partitioned table itself
SELECT @extschema@.reference_addresses($1::regclass, $2)
