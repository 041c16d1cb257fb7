-- $1 rel oid
DELETE FROM @extschema@.session_priority WHERE rel = $1
