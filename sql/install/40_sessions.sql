-- Session tables: the trigger, and how it gets onto a table.

CREATE FUNCTION enrich_session() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'enrich_session_wrapper';
COMMENT ON FUNCTION enrich_session() IS
    'trigger function; arguments: address column, time column or empty. BEFORE INSERT OR UPDATE it fills and protects the snapshot, AFTER INSERT, UPDATE or DELETE it counts';

CREATE TABLE session_table_option (
    rel          regclass PRIMARY KEY,
    run_triggers boolean NOT NULL DEFAULT false,
    trust_input  boolean NOT NULL DEFAULT false,
    table_owner  name NOT NULL,
    set_at       timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('session_table_option', '');
COMMENT ON TABLE session_table_option IS 'options of attached tables; see set_session_table_options()';
COMMENT ON COLUMN session_table_option.rel IS
    'the attached table; of a partitioned table, the root. Partitions and inheritance children of the same owner have its options';
COMMENT ON COLUMN session_table_option.run_triggers IS
    'the owner allows triggers that run code of other roles to fire when the extension completes sessions';
COMMENT ON COLUMN session_table_option.trust_input IS
    'a superuser or the owner of the extension trusts the snapshots and documents that clients write into this table';
COMMENT ON COLUMN session_table_option.table_owner IS
    'owner of the table when the options were set; with another owner the options do not apply';

CREATE FUNCTION session_options_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'session_options_changed_wrapper';
COMMENT ON FUNCTION session_options_changed() IS
    'trigger: tells all backends to read the options of attached tables again';
CREATE TRIGGER session_options_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON session_table_option
    FOR EACH STATEMENT EXECUTE FUNCTION session_options_changed();

CREATE FUNCTION set_session_table_options(rel regclass, run_triggers boolean, trust_input boolean) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_table_options_wrapper';
COMMENT ON FUNCTION set_session_table_options(regclass, boolean, boolean) IS
    'set options of an attached table; null keeps an option as it is. The owner of the table sets run_triggers; only a superuser or the owner of the extension turns trust_input on';

-- PostgreSQL does not record who created a trigger, so the owners of the code that it runs stand for its creator. A WHEN
-- condition is code too. Its functions must be immutable or known to be harmless: a volatile function of the server, such
-- as query_to_xml(), runs any statement, and a stable one, such as table_to_xml(), reads any view.
-- Partitions inherit triggers, whose conditions depend on nothing in pg_depend; so functions are read from the condition.
CREATE VIEW blocked_session_tables AS
SELECT t.tgrelid::pg_catalog.regclass AS rel, t.tgname AS trigger_name,
       CASE WHEN code.is_unsafe
            THEN pg_catalog.format('the condition of trigger %I on %s calls %s, which is not immutable',
                                   t.tgname, t.tgrelid::pg_catalog.regclass, code.name)
            ELSE pg_catalog.format('trigger %I on %s runs code of role %I: %s',
                                   t.tgname, t.tgrelid::pg_catalog.regclass, pg_catalog.pg_get_userbyid(code.owner), code.name)
       END AS reason
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
CROSS JOIN LATERAL (
    SELECT p.oid::pg_catalog.regprocedure::text AS name, p.proowner AS owner, false AS is_unsafe
    FROM pg_catalog.pg_proc p
    WHERE p.oid OPERATOR(pg_catalog.=) t.tgfoid
    UNION ALL
    SELECT p.oid::pg_catalog.regprocedure::text, p.proowner,
           p.provolatile OPERATOR(pg_catalog.<>) 'i'
           AND (p.pronamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
                   AND (p.proowner OPERATOR(pg_catalog.<>) c.relowner
                        OR EXISTS (SELECT FROM pg_catalog.pg_roles r
                                   WHERE r.oid OPERATOR(pg_catalog.=) p.proowner AND r.rolsuper))
                OR p.provolatile OPERATOR(pg_catalog.=) 'v'
                   AND p.proname OPERATOR(pg_catalog.<>) ALL ('{pg_trigger_depth,clock_timestamp,random}'::name[])
                OR p.proname OPERATOR(pg_catalog.~) '(xml|^pg_input_)')
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:opfuncid|funcid) ([0-9]+)', 'g') m(parts)
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m.parts[1]::pg_catalog.oid
    UNION ALL
    SELECT pg_catalog.format_type(y.oid, NULL), y.typowner, false
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:resulttype|consttype) ([0-9]+)', 'g') m(parts)
    JOIN pg_catalog.pg_type y ON y.oid OPERATOR(pg_catalog.=) m.parts[1]::pg_catalog.oid
    ) code
WHERE t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::"char"[])
  AND t.tgtype::integer OPERATOR(pg_catalog.&) 16 OPERATOR(pg_catalog.<>) 0
  AND (code.is_unsafe
       OR code.owner OPERATOR(pg_catalog.<>) c.relowner
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_proc ours
              WHERE ours.oid OPERATOR(pg_catalog.=) '@extschema@.enrich_session()'::pg_catalog.regprocedure::pg_catalog.oid
                AND ours.proowner OPERATOR(pg_catalog.=) code.owner)
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_roles r
              WHERE r.oid OPERATOR(pg_catalog.=) code.owner AND r.rolsuper))
  AND NOT EXISTS (
      WITH RECURSIVE above (oid) AS (
          SELECT c.oid
          UNION
          SELECT i.inhparent
          FROM above a
          JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) a.oid
      )
      SELECT
      FROM above a
      JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) a.oid
      JOIN @extschema@.session_table_option o ON o.rel::pg_catalog.oid OPERATOR(pg_catalog.=) a.oid
      WHERE o.run_triggers
        AND p.relowner OPERATOR(pg_catalog.=) c.relowner
        AND pg_catalog.pg_get_userbyid(p.relowner) OPERATOR(pg_catalog.=) o.table_owner);
COMMENT ON VIEW blocked_session_tables IS
    'triggers that an UPDATE fires and whose code belongs to another role than the owner of the table, the owner of the extension or a superuser, where the owner of the table has not allowed them';

-- Arguments are in tgargs with a NUL after each; in hex two digits a byte, so that no letter of a name is mistaken for it.
CREATE VIEW attached_tables AS
    SELECT x.rel, x.ip_column, x.time_column, x.has_foreign_key,
           NOT EXISTS (
               SELECT
               FROM (VALUES (x.ip_column, '{inet,text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[]),
                            (x.time_column, '{timestamptz,timestamp,date}'::pg_catalog.regtype[]::pg_catalog.oid[]),
                            ('snapshot_asn', '{bigint}'::pg_catalog.regtype[]::pg_catalog.oid[]),
                            ('snapshot_country', '{text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[]),
                            ('snapshot_ip_type', '{text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[])
                   ) w(name, types)
               LEFT JOIN pg_catalog.pg_attribute c
                 ON c.attrelid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid AND c.attname OPERATOR(pg_catalog.=) w.name
                AND NOT c.attisdropped
               WHERE w.name IS NOT NULL
                 AND COALESCE(c.atttypid, 0::pg_catalog.oid) OPERATOR(pg_catalog.<>) ALL (w.types)) AS is_intact,
           (WITH RECURSIVE part (oid) AS (
                SELECT x.rel::pg_catalog.oid
                UNION
                SELECT i.inhrelid
                FROM part p
                JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
                JOIN pg_catalog.pg_class child ON child.oid OPERATOR(pg_catalog.=) i.inhrelid AND child.relispartition
            )
            SELECT b.reason
            FROM part p
            JOIN @extschema@.blocked_session_tables b ON b.rel::pg_catalog.oid OPERATOR(pg_catalog.=) p.oid
            ORDER BY b.rel::pg_catalog.oid, b.trigger_name
            LIMIT 1) AS blocked_reason
    FROM (
        SELECT t.tgrelid::pg_catalog.regclass AS rel,
               pg_catalog.convert_from(pg_catalog.decode(a.args[1], 'hex'), pg_catalog.getdatabaseencoding()) AS ip_column,
               NULLIF(pg_catalog.convert_from(pg_catalog.decode(a.args[2], 'hex'), pg_catalog.getdatabaseencoding()), '') AS time_column,
               pg_catalog.bool_or(t.tgconstraint OPERATOR(pg_catalog.<>) 0) AS has_foreign_key
        FROM pg_catalog.pg_trigger t
        CROSS JOIN LATERAL (
            SELECT pg_catalog.string_to_array(
                pg_catalog.regexp_replace(pg_catalog.encode(t.tgargs, 'hex'), '(..)', E'\\1 ', 'g'), '00 ')) a(args)
        WHERE t.tgfoid OPERATOR(pg_catalog.=) '@extschema@.enrich_session()'::pg_catalog.regprocedure
          AND t.tgparentid OPERATOR(pg_catalog.=) 0
        GROUP BY 1, 2, 3) x;
COMMENT ON VIEW attached_tables IS 'tables with our triggers, from the catalogs; partitions are part of their parent';
COMMENT ON COLUMN attached_tables.is_intact IS
    'whether address, time and snapshot columns are there and of the types that they had when the table was attached';
COMMENT ON COLUMN attached_tables.blocked_reason IS
    'why the extension does not complete sessions of the table or of one of its partitions: a trigger runs code of a third role. Null where nothing is in the way';

CREATE FUNCTION sessions_wait_for_types() RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'sessions_wait_for_types_wrapper';
COMMENT ON FUNCTION sessions_wait_for_types() IS
    'whether a source that knows the types of addresses is enabled, so that sessions wait for snapshot_ip_type';

CREATE FUNCTION create_address_key(rel regclass, ip_column name) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_address_key_wrapper';
COMMENT ON FUNCTION create_address_key(regclass, name) IS
    'adds the foreign key from a table of the caller to ip_inventory, for an address column of exactly the type inet; the caller needs no privilege REFERENCES';

CREATE FUNCTION reference_addresses(rel regclass, whole boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := '@extschema@';
    attached record;
    ip_type regtype;
    arguments text;
    part regclass;
    is_partitioned boolean;
BEGIN
    SELECT a.ip_column, a.time_column INTO attached FROM @extschema@.attached_tables a
    WHERE a.rel = reference_addresses.rel AND a.ip_column <> ''
    ORDER BY 1, 2 LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s is not an attached session table', rel),
            HINT = 'Call attach_session_table() first.';
    END IF;
    SELECT c.relkind = 'p' INTO is_partitioned FROM pg_class c WHERE c.oid = rel;
    SELECT a.atttypid INTO ip_type FROM pg_attribute a
    WHERE a.attrelid = rel AND a.attname = attached.ip_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF ip_type IS DISTINCT FROM 'inet'::regtype THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('a foreign key needs an address column of type inet, but %I is %s', attached.ip_column, ip_type),
            HINT = 'Do without a foreign key, or change the column''s type to inet.';
    END IF;
    arguments := format('%L, %L', attached.ip_column, COALESCE(attached.time_column, ''));
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = rel AND t.tgname = 'COWRIE_ENRICH_reference') THEN
        -- The column must spell addresses as ip_inventory does.
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE
             ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s, %L)', rel, own, arguments, 'canonical');
        -- "COWRIE" sorts before "RI_": the addresses are written before the references to them are checked.
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER "COWRIE_ENRICH_reference" AFTER INSERT OR UPDATE
             ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)',
            rel, own, arguments);
    END IF;
    -- The key of a partitioned table looks at no row once those of its partitions are valid. Each of those is made without
    -- a look at the rows.
    FOR part IN
        SELECT t.relid
        FROM (SELECT rel AS relid WHERE NOT is_partitioned
              UNION ALL
              SELECT p.relid FROM pg_partition_tree(rel) p WHERE is_partitioned AND p.isleaf) t
        WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = t.relid AND c.contype = 'f'
                          AND c.confrelid = '@extschema@.ip_inventory'::regclass AND c.conname = 'cowrie_enrich_address')
        ORDER BY t.relid
    LOOP
        PERFORM @extschema@.create_address_key(part, attached.ip_column);
    END LOOP;
    IF NOT (whole AND is_partitioned)
       OR EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = rel AND c.contype = 'f'
                  AND c.confrelid = '@extschema@.ip_inventory'::regclass AND c.conname = 'cowrie_enrich_address') THEN
        RETURN;
    END IF;
    FOR part IN
        SELECT t.relid
        FROM pg_partition_tree(rel) t
        JOIN pg_constraint c ON c.conrelid = t.relid AND c.contype = 'f' AND NOT c.convalidated
         AND c.confrelid = '@extschema@.ip_inventory'::regclass AND c.conname = 'cowrie_enrich_address'
        WHERE t.isleaf
        ORDER BY t.relid
    LOOP
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT cowrie_enrich_address', part);
    END LOOP;
    PERFORM @extschema@.create_address_key(rel, attached.ip_column);
END
$$;
COMMENT ON FUNCTION reference_addresses(regclass, boolean) IS
    'the part of attach_session_table() and add_session_foreign_key() that makes sessions point at ip_inventory: of a partitioned table as a whole, or of each partition';

CREATE FUNCTION attach_session_table(
    rel regclass, ip_column name DEFAULT 'source_ip', time_column name DEFAULT NULL,
    add_foreign_key boolean DEFAULT false, run_triggers boolean DEFAULT NULL, trust_input boolean DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind "char";
    schema_oid oid;
    ip_type regtype;
    time_type regtype;
    wanted record;
    present regtype;
    index_name text;
    arguments text := format('%L, %L', ip_column, COALESCE(time_column, ''));
    own CONSTANT text := '@extschema@';
BEGIN
    IF rel IS NULL OR ip_column IS NULL OR add_foreign_key IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'table, address column and add_foreign_key must not be null';
    END IF;
    SELECT c.relkind, c.relnamespace INTO kind, schema_oid FROM pg_class c WHERE c.oid = rel;
    IF kind IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('relation with OID %s does not exist', rel::oid);
    END IF;
    IF kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is not a table', rel),
            HINT = 'Attach the table that the sessions are inserted into.';
    END IF;
    IF schema_oid = 'pg_catalog'::regnamespace
       OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = rel
                  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is not a session table', rel),
            DETAIL = 'It belongs to the system or to an extension.';
    END IF;
    -- The same relation as a partition has the parent's triggers already.
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = rel AND c.relispartition)
       AND EXISTS (SELECT FROM pg_inherits i JOIN @extschema@.attached_tables a ON a.rel = i.inhparent WHERE i.inhrelid = attach_session_table.rel) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is a partition of an attached table', rel);
    END IF;

    SELECT a.atttypid INTO ip_type FROM pg_attribute a
    WHERE a.attrelid = rel AND a.attname = ip_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF ip_type IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('column %I of %s does not exist', ip_column, rel),
            HINT = 'Name the address column in the second argument, for example ''ip'' for Cowrie''s sessions.';
    END IF;
    IF ip_type NOT IN ('inet'::regtype, 'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('address column %I has type %s', ip_column, ip_type),
            HINT = 'The address column must be inet, text, varchar or char.';
    END IF;
    IF time_column IS NOT NULL THEN
        SELECT a.atttypid INTO time_type FROM pg_attribute a
        WHERE a.attrelid = rel AND a.attname = time_column AND a.attnum > 0 AND NOT a.attisdropped;
        IF time_type IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'undefined_column',
                MESSAGE = format('column %I of %s does not exist', time_column, rel);
        END IF;
        IF time_type NOT IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) THEN
            RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
                MESSAGE = format('time column %I has type %s', time_column, time_type),
                HINT = 'The time column must be timestamptz, timestamp or date.';
        END IF;
    END IF;

    FOR wanted IN
        SELECT * FROM (VALUES
            ('snapshot_asn', 'bigint'::regtype), ('snapshot_country', 'text'), ('snapshot_ip_type', 'text'),
            ('enrichment', 'jsonb'), ('enrichment_at', 'timestamptz')) v(name, type)
    LOOP
        SELECT a.atttypid INTO present FROM pg_attribute a
        WHERE a.attrelid = rel AND a.attname = wanted.name AND a.attnum > 0 AND NOT a.attisdropped;
        IF present IS NULL THEN
            EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', rel, wanted.name, wanted.type);
        ELSIF present <> wanted.type AND NOT (wanted.type = 'text'::regtype AND present IN ('varchar'::regtype, 'bpchar'::regtype)) THEN
            RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
                MESSAGE = format('column %I of %s has type %s, but must have type %s', wanted.name, rel, present, wanted.type),
                HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE %s;', rel, wanted.name, wanted.type);
        END IF;
    END LOOP;

    PERFORM @extschema@.detach_session_table(rel);
    -- A session's insert never waits for a new mmdb file; a lookup puts the configured ones into service first.
    PERFORM @extschema@.ip_asn('192.0.2.1'::inet);
    -- On every UPDATE, not only of the columns concerned: a BEFORE trigger of yours may change an address that the
    -- statement does not name. "zz": BEFORE triggers fire in the order of their names, and ours must see the address that yours leave.
    EXECUTE format(
        'CREATE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE
         ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)', rel, own, arguments);
    EXECUTE format(
        'CREATE TRIGGER zz_cowrie_enrich_count AFTER INSERT OR DELETE OR UPDATE
         ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)', rel, own, arguments);
    EXECUTE format(
        'CREATE TRIGGER zz_cowrie_enrich_truncate BEFORE TRUNCATE
         ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s.forget_sessions(%s)', rel, own, arguments);
    -- How the worker finds the sessions whose snapshot an answer can complete: only those are in it. Without a source of
    -- types every session would be.
    SELECT left(c.relname, 40) || '_cowrie_enrich_waiting' INTO index_name FROM pg_class c WHERE c.oid = rel;
    -- A longer name would lose the end that it is known by.
    IF octet_length(index_name) > 63
       OR EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name AND c.relnamespace = schema_oid) THEN
        index_name := 'cowrie_enrich_waiting_' || rel::oid;
    END IF;
    -- The cast: nothing that somebody else put beside session_address() fits better.
    EXECUTE format(
        'CREATE INDEX %I ON %s (%s.session_address(%I::%s)) WHERE snapshot_asn IS NULL OR snapshot_country IS NULL%s',
        index_name, rel, own, ip_column, CASE ip_type WHEN 'inet'::regtype THEN 'inet' ELSE 'text' END,
        CASE WHEN @extschema@.sessions_wait_for_types() THEN ' OR snapshot_ip_type IS NULL' ELSE '' END);
    -- Null keeps the option as an earlier call has set it.
    IF run_triggers IS NOT NULL OR trust_input IS NOT NULL THEN
        PERFORM @extschema@.set_session_table_options(rel, run_triggers, trust_input);
    END IF;
    IF add_foreign_key THEN
        PERFORM @extschema@.reference_addresses(rel, true);
    END IF;
END
$$;
COMMENT ON FUNCTION attach_session_table(regclass, name, name, boolean, boolean, boolean) IS
    'add the snapshot columns, the triggers and a small partial index to a session table; repeatable';

CREATE FUNCTION detach_session_table(rel regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours record;
BEGIN
    -- The table's own, and those that partitions have for themselves.
    FOR ours IN
        SELECT c.conrelid, c.conname FROM pg_constraint c
        WHERE c.conname = 'cowrie_enrich_address' AND c.confrelid = '@extschema@.ip_inventory'::regclass
          AND c.conparentid = 0
          AND (c.conrelid = rel OR c.conrelid IN (SELECT t.relid FROM pg_partition_tree(rel) t))
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', ours.conrelid::regclass, ours.conname);
    END LOOP;
    FOR ours IN
        SELECT t.tgname FROM pg_trigger t
        WHERE t.tgrelid = rel AND t.tgparentid = 0
          AND t.tgfoid IN ('@extschema@.enrich_session()'::regprocedure, '@extschema@.forget_sessions()'::regprocedure)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', ours.tgname, rel);
    END LOOP;
    FOR ours IN
        SELECT c.oid FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = rel AND c.relname LIKE '%cowrie\_enrich\_waiting%'
    LOOP
        EXECUTE format('DROP INDEX %s', ours.oid::regclass);
    END LOOP;
END
$$;
COMMENT ON FUNCTION detach_session_table(regclass) IS
    'remove our triggers, index and foreign key from a session table; snapshots and counts stay';

CREATE TABLE session_priority (
    rel         regclass PRIMARY KEY,
    expression  text NOT NULL,
    search_path text NOT NULL,
    set_by      name NOT NULL,
    set_at      timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('session_priority', '');
COMMENT ON TABLE session_priority IS 'which sessions of a table matter more; see set_session_priority()';
COMMENT ON COLUMN session_priority.expression IS 'an expression over a row s of the table; higher is sooner';
COMMENT ON COLUMN session_priority.set_by IS
    'owner of the table when the rule was set: it is evaluated as long as the table and the partition are theirs';
COMMENT ON COLUMN session_priority.search_path IS 'what names in the expression mean: the search_path of whoever set it';

CREATE FUNCTION set_session_priority(rel regclass, expression text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_priority_wrapper';
COMMENT ON FUNCTION set_session_priority(regclass, text) IS
    'have sources with a daily quota ask first about addresses behind sessions for which an SQL expression over the row s of an attached table is high; null removes it';

CREATE FUNCTION session_address(ip text) RETURNS inet
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'session_address_text_wrapper';
COMMENT ON FUNCTION session_address(text) IS
    'the address in a text column of a session table as the trigger reads it, or null';
CREATE FUNCTION session_address(ip inet) RETURNS inet
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'canonical_address_wrapper';
COMMENT ON FUNCTION session_address(inet) IS
    'the address in an inet column of a session table as the trigger reads it, or null';

CREATE FUNCTION forget_sessions() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'forget_sessions_wrapper';
COMMENT ON FUNCTION forget_sessions() IS 'trigger: TRUNCATE takes its sessions out of the counts';

CREATE PROCEDURE fold_statistics()
    LANGUAGE c AS 'MODULE_PATHNAME', 'fold_statistics_wrapper';
COMMENT ON PROCEDURE fold_statistics() IS
    'add pending counts to the inventories, but for those of rows that other transactions hold; commits after each batch unless called inside a transaction block';
