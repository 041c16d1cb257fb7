-- $1 oid: OID of the table
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1
