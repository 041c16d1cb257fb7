-- Adds the foreign key from sessions to addresses, with the caller's rights on the table.
-- $1 oid: rel
-- $2 boolean: of a partitioned table as a whole
SELECT @extschema@.reference_addresses($1::regclass, $2)
