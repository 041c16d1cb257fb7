-- The trigger functions of session tables.

CREATE FUNCTION enrich_session() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'enrich_session_wrapper';
COMMENT ON FUNCTION enrich_session() IS
    'trigger function for session tables. The arguments are the name of the address column, and the name of the time column or an empty string. A BEFORE trigger fills the snapshot columns. Unless trust_input is true, the BEFORE trigger also replaces values of clients in these columns. An AFTER trigger counts sessions';

CREATE FUNCTION forget_sessions() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'forget_sessions_wrapper';
COMMENT ON FUNCTION forget_sessions() IS
    'trigger function for session tables: before TRUNCATE, reduces the session counts by the sessions that TRUNCATE removes';
