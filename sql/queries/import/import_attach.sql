-- Runs as the caller, with any search_path. All arguments are given with their declared types. Otherwise the call
-- could mean another role's function with these arguments.
-- $1 regclass: rel
-- $2 name: address column
-- $3 name: time column or null
SELECT @extschema@.attach_session_table($1, $2, $3, false, NULL::boolean, NULL::boolean)
