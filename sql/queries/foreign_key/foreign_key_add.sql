-- Makes sessions point at addresses, with the caller's rights on the table.
-- $1 rel oid, $2 of a partitioned table as a whole boolean
SELECT @extschema@.reference_addresses($1::regclass, $2)
