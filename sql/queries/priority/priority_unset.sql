-- $1 oid: rel
DELETE FROM @extschema@.session_priority WHERE rel = $1
