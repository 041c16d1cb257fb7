-- Priorities of sessions, set by owners of session tables.

CREATE TABLE session_priority (
    rel         regclass PRIMARY KEY,
    expression  text NOT NULL,
    search_path text NOT NULL,
    set_by      name NOT NULL,
    set_at      timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('session_priority', 'WHERE rel IN (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE session_priority IS
    'expressions that decide which addresses of sessions in attached tables are looked up first; see set_session_priority()';
COMMENT ON COLUMN session_priority.expression IS
    'SQL expression over s, a row of the table; addresses of sessions with a higher value are looked up first';
COMMENT ON COLUMN session_priority.set_by IS
    'owner of the table when the expression was set; the expression is evaluated only while this role owns the table and, for a partitioned table, the partition';
COMMENT ON COLUMN session_priority.search_path IS
    'search_path that resolves names in the expression; copied from the session that set the expression';

CREATE FUNCTION set_session_priority(rel regclass, expression text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_priority_wrapper';
COMMENT ON FUNCTION set_session_priority(regclass, text) IS
    'set an SQL expression over s, a row of an attached table; a provider with a daily quota first looks up addresses of sessions for which the expression has a high value; null removes the expression';
