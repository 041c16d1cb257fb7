-- Options of attached tables.

CREATE TABLE session_table_option (
    rel          regclass PRIMARY KEY,
    run_triggers boolean NOT NULL DEFAULT false,
    trust_input  boolean NOT NULL DEFAULT false,
    table_owner  name NOT NULL,
    set_at       timestamptz NOT NULL DEFAULT now()
);
-- A dump leaves out the rows of dropped session tables. In the database into which the dump is restored, another table
-- may have the OID of a dropped table.
SELECT pg_catalog.pg_extension_config_dump('session_table_option', 'WHERE rel IN (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE session_table_option IS 'options of attached tables; see set_session_table_options()';
COMMENT ON COLUMN session_table_option.rel IS
    'the attached table, never one of its partitions; the options also apply to partitions and inheritance children that have the same owner as the table';
COMMENT ON COLUMN session_table_option.run_triggers IS
    'true if the extension fills null snapshot columns even when its UPDATE fires triggers with code of other roles; the table owner sets this option';
COMMENT ON COLUMN session_table_option.trust_input IS
    'true if the extension keeps values that clients write into the snapshot columns of this table, including the column "enrichment"; only a superuser or the extension''s owner can set trust_input to true';
COMMENT ON COLUMN session_table_option.table_owner IS
    'owner of the table when the options were set; if the owner has changed since then, the options do not apply';

CREATE FUNCTION session_options_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'session_options_changed_wrapper';
COMMENT ON FUNCTION session_options_changed() IS
    'trigger on session_table_option: makes all backends read the changed options of session tables';
CREATE TRIGGER session_options_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON session_table_option
    FOR EACH STATEMENT EXECUTE FUNCTION session_options_changed();

CREATE FUNCTION set_session_table_options(rel regclass, run_triggers boolean, trust_input boolean) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_table_options_wrapper';
COMMENT ON FUNCTION set_session_table_options(regclass, boolean, boolean) IS
    'set the options of an attached table. If an argument is null, the option of the same name stays unchanged. The table owner can change run_triggers. Only a superuser or the extension''s owner can turn on trust_input';
