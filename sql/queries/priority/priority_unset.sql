-- Deletes the priority rule of a table.
-- $1 oid: OID of the table
DELETE FROM @extschema@.session_priority WHERE rel = $1
