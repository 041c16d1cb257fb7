-- Runs as the caller, with any search_path. Each argument has exactly the declared type of its parameter. Otherwise PostgreSQL
-- could choose another role's function that fits the types better.
-- $1 regclass: the table
-- $2 name: name of the address column
-- $3 name: name of the time column, or null
SELECT @extschema@.attach_session_table($1, $2, $3, false, NULL::boolean, NULL::boolean)
