-- Whether a table is attached by this address column already.
-- $1 rel oid, $2 address column text
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1 AND a.ip_column = $2
