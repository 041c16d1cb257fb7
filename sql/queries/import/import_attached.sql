-- Returns whether a table is already attached by this address column.
-- $1 oid: rel
-- $2 text: address column
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1 AND a.ip_column = $2
