-- The trigger functions of session tables.

CREATE FUNCTION enrich_session() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'enrich_session_wrapper';
COMMENT ON FUNCTION enrich_session() IS
    'trigger function for session tables; arguments: the address column, and the time column or an empty string; as a BEFORE trigger, fills and protects the snapshot columns; as an AFTER trigger, counts sessions';

CREATE FUNCTION forget_sessions() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'forget_sessions_wrapper';
COMMENT ON FUNCTION forget_sessions() IS
    'trigger function for session tables: before TRUNCATE, subtracts the sessions that TRUNCATE removes from the counts';
