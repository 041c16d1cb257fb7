-- $1 oid: rel
SELECT FROM @extschema@.attached_tables a WHERE a.rel = $1
