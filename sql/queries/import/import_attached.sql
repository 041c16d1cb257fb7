-- Returns a row if a table is already attached with this address column.
-- $1 oid: OID of the table
-- $2 text: name of the address column
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1 AND a.ip_column = $2
