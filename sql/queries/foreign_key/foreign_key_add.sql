-- Adds the foreign key from sessions to addresses, with the caller's rights on the table.
-- $1 oid: OID of the table
-- $2 boolean: true to create the key on the partitioned table itself too
SELECT @extschema@.reference_addresses($1::regclass, $2)
