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
    'SQL expressions that rank the sessions of attached tables; addresses of sessions with a high rank are looked up first; see set_session_priority()';
COMMENT ON COLUMN session_priority.expression IS
    'SQL expression over the alias s, which stands for a row of the table; addresses of sessions with a higher value are looked up first';
COMMENT ON COLUMN session_priority.set_by IS
    'owner of the table when the expression was set; the expression is evaluated only while this role owns the table; for sessions in a partition, this role must also own the partition';
COMMENT ON COLUMN session_priority.search_path IS
    'search_path for names in the expression; copied from the database session that called set_session_priority()';

CREATE FUNCTION set_session_priority(rel regclass, expression text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_priority_wrapper';
COMMENT ON FUNCTION set_session_priority(regclass, text) IS
    'set an SQL expression that computes the priority of each session in an attached table. The alias s stands for a row of the table. At providers with a daily quota, the worker first looks up addresses of sessions with a high priority. Null removes the expression';
