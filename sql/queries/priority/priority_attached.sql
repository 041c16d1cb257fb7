-- $1 rel oid
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1
