-- Runs as the caller, whatever search_path that has. All arguments, as they are declared: else a function of somebody else's
-- with just these could be meant.
-- $1 regclass: rel
-- $2 name: address column
-- $3 name: time column or null
SELECT @extschema@.attach_session_table($1, $2, $3, false, NULL::boolean, NULL::boolean)
