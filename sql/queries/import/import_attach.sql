-- Attaches a session table. Runs as the caller of the import, with any search_path. The type of each argument is exactly the
-- declared type of the parameter. Otherwise PostgreSQL could choose a function of another role whose parameters match the arguments
-- better.
-- $1 regclass: the table
-- $2 name: name of the address column
-- $3 name: name of the time column, or null
SELECT @extschema@.attach_session_table($1, $2, $3, false, NULL::boolean, NULL::boolean)
