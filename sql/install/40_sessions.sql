-- Session tables: the trigger, and how it is added to a table.

CREATE FUNCTION enrich_session() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'enrich_session_wrapper';
COMMENT ON FUNCTION enrich_session() IS
    'trigger function for session tables; arguments: the address column, and the time column or an empty string; as a BEFORE trigger, fills and protects the snapshot columns; as an AFTER trigger, counts sessions';

CREATE FUNCTION forget_sessions() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'forget_sessions_wrapper';
COMMENT ON FUNCTION forget_sessions() IS
    'trigger function for session tables: before TRUNCATE, subtracts the sessions that TRUNCATE removes from the counts';

CREATE TABLE session_table_option (
    rel          regclass PRIMARY KEY,
    run_triggers boolean NOT NULL DEFAULT false,
    trust_input  boolean NOT NULL DEFAULT false,
    table_owner  name NOT NULL,
    set_at       timestamptz NOT NULL DEFAULT now()
);
-- A dump leaves out rows of dropped tables, because in another database another table may have the OID.
SELECT pg_catalog.pg_extension_config_dump('session_table_option', 'WHERE rel IN (SELECT oid FROM pg_catalog.pg_class)');
COMMENT ON TABLE session_table_option IS 'options of attached tables; see set_session_table_options()';
COMMENT ON COLUMN session_table_option.rel IS
    'the attached table; for a partitioned table, the root; the options also apply to partitions and inheritance children that have the same owner';
COMMENT ON COLUMN session_table_option.run_triggers IS
    'true if the table owner allows triggers with code of other roles to fire when the extension fills nulls in the snapshot columns';
COMMENT ON COLUMN session_table_option.trust_input IS
    'true if a superuser or the extension''s owner trusts the values that clients write into the snapshot columns and the column enrichment of this table';
COMMENT ON COLUMN session_table_option.table_owner IS
    'owner of the table when the options were set; if the owner has changed since then, the options do not apply';

CREATE FUNCTION session_options_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'session_options_changed_wrapper';
COMMENT ON FUNCTION session_options_changed() IS
    'trigger on session_table_option: makes all backends read the options again';
CREATE TRIGGER session_options_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON session_table_option
    FOR EACH STATEMENT EXECUTE FUNCTION session_options_changed();

CREATE FUNCTION set_session_table_options(rel regclass, run_triggers boolean, trust_input boolean) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_session_table_options_wrapper';
COMMENT ON FUNCTION set_session_table_options(regclass, boolean, boolean) IS
    'set the options of an attached table; a null argument leaves the option unchanged; the table owner can set run_triggers; only a superuser or the extension''s owner can turn on trust_input';

-- PostgreSQL does not record who created a trigger. So the owners of its code count as its creator. A WHEN condition
-- is code too. Its functions must be immutable or known to be harmless. A volatile function of the server, such as
-- query_to_xml(), runs any statement, and a stable one, such as table_to_xml(), reads any view. Conditions of
-- inherited triggers on partitions have no entries in pg_depend, so functions are read from the condition.
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
                OR p.proname OPERATOR(pg_catalog.~) '(xml|^pg_input_)'
                -- An input function, such as domain_in() or record_in(), takes the type as a number and runs its
                -- CHECKs.
                OR p.provolatile OPERATOR(pg_catalog.<>) 'i'
                   AND 'pg_catalog.cstring'::pg_catalog.regtype::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (p.proargtypes::pg_catalog.oid[]))
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:opfuncid|funcid) ([0-9]+)', 'g') m(parts)
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m.parts[1]::pg_catalog.oid
    UNION ALL
    SELECT pg_catalog.format_type(y.oid, NULL), y.typowner, false
    FROM pg_catalog.regexp_matches(t.tgqual::text, ':(?:resulttype|consttype|typid|row_typeid|minmaxtype) ([0-9]+)', 'g') m(parts)
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
    'triggers because of which the extension does not fill nulls in the snapshot columns of a table: the UPDATE would run code of a role other than the table owner, the extension''s owner and superusers, and the option run_triggers of the table does not allow this';

-- tgargs has the arguments with a NUL after each. In hex a byte has two digits, so a letter of a name cannot be
-- mistaken for a NUL. A generated address or snapshot column has no value yet when a BEFORE trigger fires. A virtual
-- column never has one in the row that a trigger gets.
CREATE VIEW attached_tables AS
    SELECT x.rel, x.ip_column, x.time_column, x.has_foreign_key,
           COALESCE(u.reason, c.reason, t.reason, k.reason, n.reason) IS NULL AS is_intact,
           COALESCE(u.reason, c.reason, t.reason, k.reason, n.reason) AS not_intact_reason,
           (SELECT b.reason
            FROM pg_catalog.unnest(p.parts) part (oid)
            JOIN @extschema@.blocked_session_tables b ON b.rel::pg_catalog.oid OPERATOR(pg_catalog.=) part.oid
            ORDER BY b.rel::pg_catalog.oid, b.trigger_name
            LIMIT 1) AS blocked_reason,
           (SELECT pg_catalog.min(i.inhparent)::pg_catalog.regclass
            FROM pg_catalog.pg_inherits i
            JOIN pg_catalog.pg_trigger t
              ON t.tgrelid OPERATOR(pg_catalog.=) i.inhparent
             AND t.tgfoid OPERATOR(pg_catalog.=) '@extschema@.enrich_session()'::pg_catalog.regprocedure
            WHERE i.inhrelid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid) AS inherits_from,
           u.reason IS NULL AS is_readable
    FROM (
        SELECT t.tgrelid::pg_catalog.regclass AS rel,
               pg_catalog.convert_from(pg_catalog.decode(a.args[1], 'hex'), pg_catalog.getdatabaseencoding()) AS ip_column,
               NULLIF(pg_catalog.convert_from(pg_catalog.decode(a.args[2], 'hex'), pg_catalog.getdatabaseencoding()), '') AS time_column,
               r.relowner, r.relkind OPERATOR(pg_catalog.=) 'r' AND r.relhassubclass AS has_children,
               pg_catalog.bool_or(t.tgconstraint OPERATOR(pg_catalog.<>) 0) AS has_foreign_key
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_class r
          ON r.oid OPERATOR(pg_catalog.=) t.tgrelid AND r.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog."char"[])
        CROSS JOIN LATERAL (
            SELECT pg_catalog.string_to_array(
                pg_catalog.regexp_replace(pg_catalog.encode(t.tgargs, 'hex'), '(..)', E'\\1 ', 'g'), '00 ')) a(args)
        WHERE t.tgfoid IN ('@extschema@.enrich_session()'::pg_catalog.regprocedure, '@extschema@.forget_sessions()'::pg_catalog.regprocedure)
          AND t.tgparentid OPERATOR(pg_catalog.=) 0
        GROUP BY 1, 2, 3, 4, 5) x
    -- The table and its partitions.
    CROSS JOIN LATERAL (
        WITH RECURSIVE part (oid) AS (
            SELECT x.rel::pg_catalog.oid
            UNION
            SELECT i.inhrelid
            FROM part p
            JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
            JOIN pg_catalog.pg_class child ON child.oid OPERATOR(pg_catalog.=) i.inhrelid AND child.relispartition)
        SELECT pg_catalog.array_agg(part.oid ORDER BY part.oid) AS parts FROM part) p
    -- The first column that has changed.
    LEFT JOIN LATERAL (
        SELECT w.place,
               CASE
                   WHEN c.attnum IS NULL THEN pg_catalog.format('column %I does not exist', w.name)
                   WHEN c.atttypid OPERATOR(pg_catalog.<>) ALL (w.types)
                   THEN pg_catalog.format('column %I has type %s', w.name, pg_catalog.format_type(c.atttypid, NULL))
                   ELSE pg_catalog.format('column %I is generated', w.name) END AS reason
        FROM (VALUES (1, x.ip_column, '{inet,text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[]),
                     (2, x.time_column, '{timestamptz,timestamp,date}'::pg_catalog.regtype[]::pg_catalog.oid[], '{"",s}'::pg_catalog.text[]),
                     (3, 'snapshot_asn', '{bigint}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[]),
                     (4, 'snapshot_country', '{text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[]),
                     (5, 'snapshot_ip_type', '{text,varchar,bpchar}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[]),
                     (6, 'enrichment', '{jsonb}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[]),
                     (7, 'enrichment_at', '{timestamptz}'::pg_catalog.regtype[]::pg_catalog.oid[], '{""}'::pg_catalog.text[])
             ) w(place, name, types, generated)
        LEFT JOIN pg_catalog.pg_attribute c
          ON c.attrelid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid AND c.attname OPERATOR(pg_catalog.=) w.name
         AND NOT c.attisdropped
        WHERE w.name IS NOT NULL
          AND (COALESCE(c.atttypid, 0::pg_catalog.oid) OPERATOR(pg_catalog.<>) ALL (w.types)
               OR c.attgenerated::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (w.generated))
        ORDER BY w.place
        LIMIT 1) c ON true
    -- The reason why the addresses of its sessions cannot be read. The index by address shows which column was
    -- attached.
    CROSS JOIN LATERAL (
        SELECT COALESCE(
            CASE WHEN c.place OPERATOR(pg_catalog.=) 1 THEN c.reason END,
            (SELECT pg_catalog.format('column %I is not the address column with which attach_session_table() was called', x.ip_column)
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class index ON index.oid OPERATOR(pg_catalog.=) i.indexrelid
             JOIN pg_catalog.pg_attribute a
               ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attname OPERATOR(pg_catalog.=) x.ip_column
             WHERE i.indrelid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid
               AND index.relname OPERATOR(pg_catalog.~~) '%cowrie\_enrich\_waiting%'
               AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_depend d
                   WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
                     AND d.objid OPERATOR(pg_catalog.=) i.indexrelid AND d.refobjid OPERATOR(pg_catalog.=) i.indrelid
                     AND d.refobjsubid OPERATOR(pg_catalog.=) a.attnum)
             LIMIT 1),
            (SELECT pg_catalog.format('partition %s is a foreign table', f.oid::pg_catalog.regclass)
             FROM pg_catalog.unnest(p.parts) part (oid)
             JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) part.oid AND f.relkind OPERATOR(pg_catalog.=) 'f'
             ORDER BY f.oid
             LIMIT 1)) AS reason) u
    -- The first trigger that does not fire. Those of a partitioned partition need not.
    LEFT JOIN LATERAL (
        SELECT CASE WHEN t.oid IS NULL THEN pg_catalog.format('%s has no trigger %I', r.oid::pg_catalog.regclass, w.name)
                    WHEN t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog."char"[])
                    THEN pg_catalog.format('trigger %I of %s was replaced', w.name, r.oid::pg_catalog.regclass)
                    ELSE pg_catalog.format('trigger %I of %s is disabled', w.name, r.oid::pg_catalog.regclass) END AS reason
        FROM pg_catalog.unnest(p.parts) part (oid)
        JOIN pg_catalog.pg_class r
          ON r.oid OPERATOR(pg_catalog.=) part.oid
         AND (r.oid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid OR r.relkind OPERATOR(pg_catalog.<>) 'p')
        -- Bits of tgtype: FOR EACH ROW 1, BEFORE 2, INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32.
        JOIN (VALUES ('zz_cowrie_enrich_snapshot', true, 23, '@extschema@.enrich_session()'::pg_catalog.regprocedure),
                     ('zz_cowrie_enrich_count', true, 29, '@extschema@.enrich_session()'::pg_catalog.regprocedure),
                     ('zz_cowrie_enrich_truncate', false, 34, '@extschema@.forget_sessions()'::pg_catalog.regprocedure),
                     ('COWRIE_ENRICH_reference', true, 21, '@extschema@.enrich_session()'::pg_catalog.regprocedure)
             ) w(name, of_partitions, type, function)
          ON w.of_partitions
          OR r.oid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid
             -- TimescaleDB does not copy it to its chunks.
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) r.oid)
        LEFT JOIN pg_catalog.pg_trigger t
          ON t.tgrelid OPERATOR(pg_catalog.=) r.oid AND t.tgname OPERATOR(pg_catalog.=) w.name
        -- Whoever creates the triggers without attach_session_table() may give them other names.
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_trigger g
            WHERE g.tgrelid OPERATOR(pg_catalog.=) r.oid
              AND g.tgfoid OPERATOR(pg_catalog.=) w.function AND g.tgtype OPERATOR(pg_catalog.=) w.type
              AND g.tgqual IS NULL AND g.tgattr::pg_catalog.text OPERATOR(pg_catalog.=) ''
              AND g.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog."char"[]))
          AND (w.name OPERATOR(pg_catalog.<>) 'COWRIE_ENRICH_reference'
               OR EXISTS (SELECT FROM pg_catalog.pg_constraint f
                          WHERE f.conrelid OPERATOR(pg_catalog.=) r.oid AND f.contype OPERATOR(pg_catalog.=) 'f'
                            AND f.confrelid OPERATOR(pg_catalog.=) '@extschema@.ip_inventory'::pg_catalog.regclass::pg_catalog.oid
                            AND f.conname OPERATOR(pg_catalog.=) 'cowrie_enrich_address'))
        ORDER BY r.oid, w.name
        LIMIT 1) t ON true
    LEFT JOIN LATERAL (
        WITH RECURSIVE child (oid) AS (
            SELECT i.inhrelid
            FROM pg_catalog.pg_inherits i
            WHERE x.has_children AND i.inhparent OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid
            UNION
            SELECT i.inhrelid
            FROM child p
            JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.oid)
        SELECT CASE WHEN k.relowner OPERATOR(pg_catalog.<>) x.relowner
                    THEN pg_catalog.format('inheritance child %s has a different owner than the table', k.oid::pg_catalog.regclass)
                    ELSE pg_catalog.format('inheritance child %s is not an attached session table', k.oid::pg_catalog.regclass) END AS reason
        FROM child
        JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) child.oid
        WHERE k.relowner OPERATOR(pg_catalog.<>) x.relowner
           OR NOT EXISTS (
               SELECT FROM pg_catalog.pg_trigger t
               WHERE t.tgrelid OPERATOR(pg_catalog.=) k.oid
                 AND t.tgfoid OPERATOR(pg_catalog.=) '@extschema@.enrich_session()'::pg_catalog.regprocedure)
        ORDER BY k.oid
        LIMIT 1) k ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN NOT EXISTS (
            SELECT FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class index ON index.oid OPERATOR(pg_catalog.=) i.indexrelid
            WHERE i.indrelid OPERATOR(pg_catalog.=) x.rel::pg_catalog.oid
              AND index.relname OPERATOR(pg_catalog.~~) '%cowrie\_enrich\_waiting%')
        THEN pg_catalog.format('%s has no index by address for the worker', x.rel) END AS reason) n;
COMMENT ON VIEW attached_tables IS
    'attached session tables, which are tables with triggers of the extension; a partition has no row, because the row of the partitioned table covers the partition; an inheritance child has its own row';
COMMENT ON COLUMN attached_tables.is_intact IS
    'true if the columns, triggers, partitions and inheritance children of the table meet the requirements of the extension; otherwise not_intact_reason names the problem';
COMMENT ON COLUMN attached_tables.not_intact_reason IS
    'the column, trigger, partition or inheritance child that does not meet the requirements of the extension; null if the table is intact';
COMMENT ON COLUMN attached_tables.is_readable IS
    'true if a recount can read the addresses of all sessions of the table; if false for any table, a recount lowers no count, because the recount cannot read all sessions';
COMMENT ON COLUMN attached_tables.blocked_reason IS
    'why the extension does not fill nulls in the snapshot columns of the table or of one of its partitions; null if no trigger prevents the UPDATE; see blocked_session_tables';
COMMENT ON COLUMN attached_tables.inherits_from IS
    'attached table from which this table inherits, or null; campaign_networks() for that table includes the sessions of this table';

-- The type of the keys of indexes on addresses. PostgreSQL checks the privilege EXECUTE of the inserting role on each
-- function in an index expression, but not on the functions of a type to which it casts a column. So revoking
-- privileges cannot prevent a session from being stored. The input function cannot return null, so 0.0.0.0/0 stands
-- for a text that is not an address.
CREATE TYPE parsed_address;
CREATE FUNCTION parsed_address_in(cstring) RETURNS parsed_address
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'parsed_address_in_wrapper';
COMMENT ON FUNCTION parsed_address_in(cstring) IS 'input function of the type parsed_address; never fails';
CREATE FUNCTION parsed_address_out(parsed_address) RETURNS cstring
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'inet_out';
COMMENT ON FUNCTION parsed_address_out(parsed_address) IS 'output function of the type parsed_address';
CREATE TYPE parsed_address (INPUT = parsed_address_in, OUTPUT = parsed_address_out, LIKE = pg_catalog.inet);
COMMENT ON TYPE parsed_address IS
    'type for index expressions: parses the text of an address in the same way as the trigger; a text that is not an address becomes 0.0.0.0/0';
CREATE CAST (parsed_address AS inet) WITHOUT FUNCTION;
COMMENT ON CAST (parsed_address AS inet) IS
    'cast for index expressions; both types have the same binary representation';

-- In SQL, and not strict, so that the planner inlines it and finds the expression of the index by address.
CREATE FUNCTION session_address(ip text) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ip::@extschema@.parsed_address::pg_catalog.inet OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet
                THEN ip::@extschema@.parsed_address::pg_catalog.inet END;
COMMENT ON FUNCTION session_address(text) IS
    'parses the text of an address column in the same way as the trigger; null if the text is not an address';
CREATE FUNCTION session_address(ip inet) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.host(ip)::@extschema@.parsed_address::pg_catalog.inet;
COMMENT ON FUNCTION session_address(inet) IS
    'converts the value of an inet address column in the same way as the trigger; null if the value is null';

CREATE FUNCTION sessions_wait_for_types() RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'sessions_wait_for_types_wrapper';
COMMENT ON FUNCTION sessions_wait_for_types() IS
    'true if a source of address types is enabled; only then does a null in snapshot_ip_type make a session incomplete';

CREATE FUNCTION create_address_key(rel regclass, ip_column name) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_address_key_wrapper';
COMMENT ON FUNCTION create_address_key(regclass, name) IS
    'add a foreign key from a table of the caller to ip_inventory; the address column must be of type inet; the caller does not need the REFERENCES privilege';

CREATE FUNCTION lock_session_table(rel regclass, exclusively boolean) RETURNS regclass[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'lock_session_table_wrapper';
COMMENT ON FUNCTION lock_session_table(regclass, boolean) IS
    'lock a table of the caller, and its inheritance children that have the same owner, so that the names of these tables stay valid until the transaction ends; returns the locked tables';

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
            HINT = 'Call attach_session_table() for the table first.';
    END IF;
    SELECT c.relkind = 'p' INTO is_partitioned FROM pg_class c WHERE c.oid = rel;
    SELECT a.atttypid INTO ip_type FROM pg_attribute a
    WHERE a.attrelid = rel AND a.attname = attached.ip_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF ip_type IS DISTINCT FROM 'inet'::regtype THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('a foreign key needs an address column of type inet, but column %I has type %s', attached.ip_column, ip_type),
            HINT = 'Call attach_session_table() without add_foreign_key => true. Or call detach_session_table(), change the type of the column to inet, and call attach_session_table() again.';
    END IF;
    IF EXISTS (SELECT FROM pg_attribute a
               WHERE a.attrelid = reference_addresses.rel AND a.attname = attached.ip_column AND NOT a.attisdropped AND a.attgenerated <> '') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('address column %I of %s is generated', attached.ip_column, rel),
            DETAIL = 'The trigger of the extension replaces each address by the spelling in ip_inventory, because the foreign key compares the two. A trigger cannot write a generated column.',
            HINT = 'Call attach_session_table() without add_foreign_key => true. Or use an ordinary column, and fill the column in a BEFORE trigger.';
    END IF;
    arguments := format('%L, %L', attached.ip_column, COALESCE(attached.time_column, ''));
    -- Otherwise a name could mean another table after a command has waited for its lock.
    PERFORM @extschema@.lock_session_table(rel, false);
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
    -- Adding the key of a partitioned table reads no rows if the keys of its partitions are valid. Each of those is
    -- added without reading rows.
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
    -- This validates the keys of the partitions, as their owner.
    PERFORM @extschema@.create_address_key(rel, attached.ip_column);
END
$$;
COMMENT ON FUNCTION reference_addresses(regclass, boolean) IS
    'adds the foreign key to ip_inventory to a table or to each of its partitions, for attach_session_table() and add_session_foreign_key(); not meant to be called directly';

-- Reads only the catalogs, so no code of the owner runs. The number of rows is that of the index, which PostgreSQL
-- stores when it builds the index.
CREATE FUNCTION session_table_findings(rel regclass, ip_column name, time_column name, OUT finding text, OUT remedy text)
    RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE member (oid) AS (
        SELECT $1::oid
        UNION
        SELECT i.inhrelid FROM member m JOIN pg_inherits i ON i.inhparent = m.oid
    ),
    waiting_index AS (
        SELECT c.oid, c.reltuples, pg_get_expr(i.indpred, i.indrelid) LIKE '%snapshot_ip_type%' AS has_types
        FROM member m
        JOIN pg_index i ON i.indrelid = m.oid
        JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
        JOIN pg_depend d
          ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_type'::regclass
         AND d.refobjid = '@extschema@.parsed_address'::regtype
        WHERE i.indnatts = 1
    ),
    snapshot_column AS (
        SELECT m.oid::regclass AS rel, a.attname, a.atttypid, a.atttypmod - 4 AS length, a.attnotnull, a.atthasdef
        FROM member m
        JOIN pg_class c ON c.oid = m.oid AND NOT c.relispartition
        JOIN pg_attribute a ON a.attrelid = m.oid AND NOT a.attisdropped
        WHERE a.attname IN ('snapshot_asn', 'snapshot_country', 'snapshot_ip_type', 'enrichment', 'enrichment_at')
    ),
    found (place, finding, remedy) AS (
        SELECT 1, format('Rows without a network%s: about %s.',
                         CASE WHEN w.has_types THEN ', a country or a type' ELSE ' or a country' END, w.rows),
               format('Call backfill_sessions(%L).', $1::text)
        FROM (SELECT sum(GREATEST(reltuples, 0))::bigint AS rows, bool_or(has_types) AS has_types FROM waiting_index) w
        WHERE w.rows > 0
        UNION ALL
        SELECT 2, format('No mmdb file is loaded for cowrie_enrich.%s_database.', k.kind),
               'Name mmdb files in cowrie_enrich.city_database and cowrie_enrich.asn_database; mmdb_status() shows why a file is refused.'
        FROM (VALUES ('city'), ('asn')) k(kind)
        WHERE NOT @extschema@.mmdb_in_service(k.kind)
        UNION ALL
        SELECT 2, 'The setting cowrie_enrich.enabled_sources does not contain maxmind, so no mmdb file is used.', 'Add maxmind to cowrie_enrich.enabled_sources.'
        WHERE @extschema@.mmdb_in_service('city') IS NULL
        UNION ALL
        SELECT 3, 'No time column is named, so the time of a session is the time of its INSERT.',
               'Call attach_session_table() again with the time column as the third argument, and repeat all other arguments.'
        WHERE $3 IS NULL
        UNION ALL
        SELECT 4, format('Column %I of %s accepts %s %s characters. The extension leaves the column null if a value does not fit.',
                         s.attname, s.rel, CASE s.atttypid WHEN 'bpchar'::regtype THEN 'exactly' ELSE 'at most' END, s.length),
               format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', s.rel, s.attname)
        FROM snapshot_column s
        WHERE s.length > 0 AND s.atttypid IN ('varchar'::regtype, 'bpchar'::regtype)
          AND CASE WHEN s.attname = 'snapshot_country' THEN s.length <> 2 AND (s.length < 2 OR s.atttypid = 'bpchar'::regtype)
                   -- The longest of the known types is DATACENTER.
                   ELSE s.length < 10 OR s.atttypid = 'bpchar'::regtype END
        UNION ALL
        SELECT 5, format('Column %I of %s has a default. The extension treats the default as a value that the client wrote.', s.attname, s.rel),
               format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT;', s.rel, s.attname)
        FROM snapshot_column s
        WHERE s.atthasdef
        UNION ALL
        SELECT 6, format('Column %I of %s is NOT NULL, so an INSERT fails if neither the client nor the extension has a value.', s.attname, s.rel),
               format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL;', s.rel, s.attname)
        FROM snapshot_column s
        WHERE s.attnotnull
        UNION ALL
        -- BEFORE triggers for rows: bits 1 and 2; INSERT or UPDATE: bits 4 and 16.
        SELECT 7, format('The extension does not see the changes that trigger %I on %s makes, because that trigger fires after the trigger of the extension.',
                         t.tgname, t.tgrelid::regclass),
               format('Rename trigger %I on %s to a name that sorts before zz_cowrie_enrich_snapshot.', t.tgname, t.tgrelid::regclass)
        FROM member m
        JOIN pg_trigger t ON t.tgrelid = m.oid AND t.tgparentid = 0 AND NOT t.tgisinternal
        WHERE t.tgtype::integer & 3 = 3 AND t.tgtype::integer & 20 <> 0 AND t.tgenabled <> 'D'
          AND t.tgfoid <> '@extschema@.enrich_session()'::regprocedure
          AND t.tgname::text COLLATE "C" > 'zz_cowrie_enrich_snapshot'
        UNION ALL
        SELECT 8, format('%s is UNLOGGED: a crash empties the table, but its sessions stay in the counts.', m.oid::regclass),
               format('ALTER TABLE %s SET LOGGED, or call refresh_session_counts() after a crash.', m.oid::regclass)
        FROM member m
        JOIN pg_class c ON c.oid = m.oid AND c.relkind = 'r' AND c.relpersistence = 'u'
        UNION ALL
        -- 3 is INSERT.
        SELECT 9, format('Rule %I on %s replaces INSERT, so the triggers of the extension see only rows that the rule stores in the table itself.', r.rulename, m.oid::regclass),
               format('Call attach_session_table() for the table in which rule %I stores sessions.', r.rulename)
        FROM member m
        JOIN pg_rewrite r ON r.ev_class = m.oid AND r.ev_type = '3' AND r.is_instead AND r.ev_enabled <> 'D'
    )
    SELECT f.finding, f.remedy FROM found f ORDER BY f.place, f.finding
    $$;
COMMENT ON FUNCTION session_table_findings(regclass, name, name) IS
    'problems because of which sessions of an attached table are not enriched or not counted, each with a remedy; attach_session_table() reports these problems';

CREATE FUNCTION attach_session_table(
    rel regclass, ip_column name DEFAULT 'source_ip', time_column name DEFAULT NULL,
    add_foreign_key boolean DEFAULT false, run_triggers boolean DEFAULT NULL, trust_input boolean DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    class record;
    members regclass[];
    member regclass;
    seen record;
    present record;
    index_name text;
    arguments text := format('%L, %L', ip_column, COALESCE(time_column, ''));
    distributed bigint;
    added text;
    findings text;
    remedies text;
    had_key boolean;
    own CONSTANT text := '@extschema@';
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
            MESSAGE = 'could not run attach_session_table() in a read-only transaction',
            HINT = 'Repeat the call in a read-write transaction on the primary.';
    END IF;
    IF rel IS NULL OR ip_column IS NULL OR add_foreign_key IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'arguments rel, ip_column and add_foreign_key must not be null';
    END IF;
    SELECT c.relkind, c.relnamespace, c.relpersistence, c.relispartition INTO class FROM pg_class c WHERE c.oid = rel;
    IF class.relkind IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('relation with OID %s does not exist', rel::oid);
    END IF;
    SELECT a.name INTO seen
    FROM (VALUES (ip_column), (time_column)) a(name)
    WHERE a.name IN ('snapshot_asn', 'snapshot_country', 'snapshot_ip_type', 'enrichment', 'enrichment_at');
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('column %I is a snapshot column', seen.name),
            HINT = 'The second argument must name the column that contains the address, the third argument the column that contains the time of the session.';
    END IF;
    IF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is not a table', rel),
            HINT = 'Call attach_session_table() for the table into which the sessions are inserted.';
    END IF;
    IF class.relnamespace = 'pg_catalog'::regnamespace
       OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = rel
                  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is not a session table', rel),
            DETAIL = 'The table belongs to PostgreSQL or to an extension.';
    END IF;
    IF class.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is a temporary table', rel),
            DETAIL = 'Only one connection can read a temporary table, so the extension could neither complete nor recount the sessions in the table.',
            HINT = 'Call attach_session_table() for a permanent table.';
    END IF;
    SELECT p.relid::regclass AS rel INTO seen
    FROM pg_partition_tree(attach_session_table.rel) p JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'f'
    ORDER BY p.relid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('partition %s of %s is a foreign table', seen.rel, rel),
            DETAIL = 'The rows of a foreign table are on another server, so the extension could neither complete nor recount the sessions in the partition.',
            HINT = format('Detach the partition with ALTER TABLE %s DETACH PARTITION %s, or install the extension on the server that stores the sessions.', rel, seen.rel);
    END IF;
    -- A partition of an attached table has the parent's triggers already.
    SELECT a.rel INTO seen
    FROM pg_partition_ancestors(attach_session_table.rel) p JOIN @extschema@.attached_tables a ON a.rel = p.relid
    WHERE p.relid <> attach_session_table.rel LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is a partition of an attached table', rel),
            HINT = format('Sessions in the partition are enriched already. If only the partition should be a session table, first call detach_session_table(%L).', seen.rel);
    END IF;
    SELECT a.rel INTO seen
    FROM pg_partition_tree(attach_session_table.rel) p JOIN @extschema@.attached_tables a ON a.rel = p.relid
    WHERE p.relid <> attach_session_table.rel LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('partition %s of %s is itself an attached session table', seen.rel, rel),
            HINT = format('First call detach_session_table(%L).', seen.rel);
    END IF;
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        -- EXECUTE, because the table exists only where Citus is installed.
        EXECUTE 'SELECT FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid::oid = $1' USING rel::oid;
        GET DIAGNOSTICS distributed = ROW_COUNT;
        IF distributed > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = format('%s is distributed by Citus', rel),
                DETAIL = 'The triggers of a distributed table do not fire on the node where the table was created.',
                HINT = 'Keep sessions in a local table. See section Citus of docs/scaling.md.';
        END IF;
    END IF;

    -- From here on these names keep their meaning. Dropping triggers and adding columns blocks readers too. That lock
    -- is taken at once, because a transaction that waits for a stronger lock can deadlock.
    members := @extschema@.lock_session_table(rel,
        EXISTS (SELECT FROM pg_trigger t
                WHERE t.tgrelid = rel
                  AND (t.tgfoid IN ('@extschema@.enrich_session()'::regprocedure, '@extschema@.forget_sessions()'::regprocedure)
                       OR t.tgname IN ('zz_cowrie_enrich_snapshot', 'zz_cowrie_enrich_count', 'zz_cowrie_enrich_truncate', 'COWRIE_ENRICH_reference')))
        OR (SELECT count(*) FROM pg_attribute a
            WHERE a.attrelid = rel AND NOT a.attisdropped
              AND a.attname IN ('snapshot_asn', 'snapshot_country', 'snapshot_ip_type', 'enrichment', 'enrichment_at')) < 5);
    WITH RECURSIVE child (oid) AS (
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = attach_session_table.rel AND class.relkind = 'r'
        UNION
        SELECT i.inhrelid FROM child p JOIN pg_inherits i ON i.inhparent = p.oid)
    SELECT child.oid::regclass AS rel, c.relkind, c.relpersistence INTO seen
    FROM child JOIN pg_class c ON c.oid = child.oid
    WHERE child.oid <> ALL (members::oid[])
    ORDER BY child.oid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('inheritance child %s of %s cannot be a session table', seen.rel, rel),
            DETAIL = CASE WHEN seen.relkind <> 'r' THEN 'The inheritance child is not a table.'
                          WHEN seen.relpersistence = 't' THEN 'The inheritance child is a temporary table.'
                          ELSE 'The inheritance child has a different owner than the parent.' END,
            HINT = format('End the inheritance with ALTER TABLE %s NO INHERIT %s, or make the inheritance child a permanent table of the same owner.', seen.rel, rel);
    END IF;

    FOREACH member IN ARRAY members LOOP
        FOR seen IN
            SELECT w.name, w.what, w.types, w.problem, a.atttypid::regtype AS type, a.attgenerated AS generated
            FROM (VALUES
                (ip_column, 'address', '{inet,text,varchar,bpchar}'::regtype[], '{s,v}'::"char"[]),
                (time_column, 'time', '{timestamptz,timestamp,date}'::regtype[], '{v}'::"char"[]),
                ('snapshot_asn', 'snapshot', '{bigint}'::regtype[], '{s,v}'::"char"[]),
                ('snapshot_country', 'snapshot', '{text,varchar,bpchar}'::regtype[], '{s,v}'::"char"[]),
                ('snapshot_ip_type', 'snapshot', '{text,varchar,bpchar}'::regtype[], '{s,v}'::"char"[]),
                ('enrichment', 'snapshot', '{jsonb}'::regtype[], '{s,v}'::"char"[]),
                ('enrichment_at', 'snapshot', '{timestamptz}'::regtype[], '{s,v}'::"char"[])) w(name, what, types, problem)
            LEFT JOIN pg_attribute a
              ON a.attrelid = member AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
            WHERE w.name IS NOT NULL
        LOOP
            IF seen.type IS NULL THEN
                -- A missing column of a child comes from its parent.
                CONTINUE WHEN seen.what = 'snapshot';
                RAISE EXCEPTION USING ERRCODE = 'undefined_column',
                    MESSAGE = format('column %I of %s does not exist', seen.name, member),
                    HINT = format('Name the %s column in the %s argument, for example %L for Cowrie''s sessions.', seen.what,
                                  CASE seen.what WHEN 'address' THEN 'second' ELSE 'third' END,
                                  CASE seen.what WHEN 'address' THEN 'ip' ELSE 'starttime' END);
            END IF;
            IF seen.type <> ALL (seen.types) THEN
                RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
                    MESSAGE = CASE seen.what
                        WHEN 'snapshot' THEN format('column %I of %s has type %s, but must have type %s', seen.name, member, seen.type, seen.types[1])
                        ELSE format('%s column %I has type %s', seen.what, seen.name, seen.type) END,
                    HINT = CASE seen.what
                        WHEN 'snapshot' THEN format('Run ALTER TABLE %s ALTER COLUMN %I TYPE %s;', member, seen.name, seen.types[1])
                        WHEN 'address' THEN 'The address column must have type inet, text, varchar or char. A domain over such a type is not allowed.'
                        ELSE 'The time column must have type timestamptz, timestamp or date. A domain over such a type is not allowed.' END;
            END IF;
            IF seen.generated = ANY (seen.problem) THEN
                RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                    MESSAGE = format('%s column %I of %s is generated', seen.what, seen.name, member),
                    DETAIL = CASE seen.what
                        WHEN 'snapshot' THEN 'The triggers of the extension write the snapshot columns, but cannot write a generated column.'
                        WHEN 'time' THEN 'Triggers cannot read the value of a virtual generated column.'
                        ELSE 'PostgreSQL computes a generated column after the BEFORE triggers, so the trigger of the extension cannot read the address.' END,
                    HINT = CASE seen.what
                        WHEN 'snapshot' THEN 'Drop the column. attach_session_table() then adds an ordinary column of this name.'
                        WHEN 'time' THEN 'Use an ordinary column, or a generated column that is STORED.'
                        ELSE 'Use an ordinary column, and fill the column in a BEFORE trigger.' END;
            END IF;
        END LOOP;
    END LOOP;
    FOR seen IN
        SELECT v.name, v.type FROM (VALUES
            (1, 'snapshot_asn', 'bigint'), (2, 'snapshot_country', 'text'), (3, 'snapshot_ip_type', 'text'),
            (4, 'enrichment', 'jsonb'), (5, 'enrichment_at', 'timestamptz')) v(place, name, type)
        WHERE NOT EXISTS (SELECT FROM pg_attribute a
                          WHERE a.attrelid = rel AND a.attname = v.name AND a.attnum > 0 AND NOT a.attisdropped)
        ORDER BY v.place
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', rel, seen.name, seen.type);
        added := concat_ws(', ', added, seen.name);
    END LOOP;

    had_key := EXISTS (SELECT FROM pg_constraint c
                       WHERE c.conname = 'cowrie_enrich_address' AND c.confrelid = '@extschema@.ip_inventory'::regclass
                         AND (c.conrelid = ANY (members::oid[]) OR c.conrelid IN (SELECT t.relid FROM pg_partition_tree(rel) t)));
    PERFORM @extschema@.detach_session_table(rel);
    -- A session's INSERT never waits for a new mmdb file. So this lookup puts the configured files into service
    -- first.
    PERFORM @extschema@.ip_asn('192.0.2.1'::inet);
    FOREACH member IN ARRAY members LOOP
        -- Another extension may copy the triggers and indexes of a parent to its children, as TimescaleDB does.
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = 'zz_cowrie_enrich_snapshot') THEN
            -- Fires on every UPDATE, because a BEFORE trigger of the user may change an address that the statement
            -- does not name. The name begins with "zz", because BEFORE triggers fire in the order of their names.
            -- This one must see the address that the user's triggers set.
            EXECUTE format(
                'CREATE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE
                 ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)', member, own, arguments);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = 'zz_cowrie_enrich_count') THEN
            EXECUTE format(
                'CREATE TRIGGER zz_cowrie_enrich_count AFTER INSERT OR DELETE OR UPDATE
                 ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)', member, own, arguments);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = 'zz_cowrie_enrich_truncate') THEN
            EXECUTE format(
                'CREATE TRIGGER zz_cowrie_enrich_truncate BEFORE TRUNCATE
                 ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s.forget_sessions(%s)', member, own, arguments);
        END IF;
        -- The worker finds sessions with incomplete snapshots by this index, which contains only those. Without a
        -- source of types every session would be incomplete.
        IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                       WHERE i.indrelid = member AND c.relname LIKE '%cowrie\_enrich\_waiting%') THEN
            SELECT c.relnamespace, left(c.relname, 40) || '_cowrie_enrich_waiting' AS index_name,
                   CASE a.atttypid WHEN 'inet'::regtype THEN format('pg_catalog.host(%I)', ip_column)
                                   ELSE format('%I::text', ip_column) END AS address_text
            INTO present
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ip_column
            WHERE c.oid = member;
            index_name := present.index_name;
            -- In a longer name, the end that identifies the index would be cut off.
            IF octet_length(index_name) > 63
               OR EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name AND c.relnamespace = present.relnamespace) THEN
                index_name := 'cowrie_enrich_waiting_' || member::oid;
            END IF;
            -- Uses no function of the extension, because PostgreSQL would check the privilege of each role that
            -- inserts.
            EXECUTE format(
                'CREATE INDEX %I ON %s ((%s::%s.parsed_address::inet)) WHERE snapshot_asn IS NULL OR snapshot_country IS NULL%s',
                index_name, member, present.address_text, own,
                CASE WHEN @extschema@.sessions_wait_for_types() THEN ' OR snapshot_ip_type IS NULL' ELSE '' END);
        END IF;
        -- Null keeps an option of an earlier call.
        IF run_triggers IS NOT NULL OR trust_input IS NOT NULL THEN
            PERFORM @extschema@.set_session_table_options(member, run_triggers, trust_input);
        END IF;
        IF add_foreign_key THEN
            PERFORM @extschema@.reference_addresses(member, true);
        END IF;
    END LOOP;

    SELECT string_agg(f.finding, E'\n' ORDER BY f.place), string_agg(DISTINCT f.remedy, E'\n') INTO findings, remedies
    FROM (SELECT 0 AS place, format('Columns were added: %s.', added) AS finding,
                 'In each COPY and INSERT statement, name the columns that the client writes.' AS remedy
          WHERE added IS NOT NULL
          UNION ALL
          SELECT 0, 'The foreign key to ip_inventory was dropped.',
                 'To restore the foreign key, call attach_session_table() again with add_foreign_key => true, and repeat all other arguments.'
          WHERE had_key AND NOT add_foreign_key
          UNION ALL
          SELECT t.place, t.finding, t.remedy
          FROM @extschema@.session_table_findings(rel, ip_column, time_column)
               WITH ORDINALITY AS t(finding, remedy, place)) f;
    IF findings IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = format('%s is now an attached session table', rel), DETAIL = findings, HINT = remedies;
    END IF;
END
$$;
COMMENT ON FUNCTION attach_session_table(regclass, name, name, boolean, boolean, boolean) IS
    'add the snapshot columns, triggers and a small partial index to a session table and its inheritance children; repeat all arguments in a later call, because a call without add_foreign_key => true drops the foreign key';

CREATE FUNCTION detach_session_table(rel regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    members regclass[];
    member regclass;
    ours record;
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
            MESSAGE = 'could not run detach_session_table() in a read-only transaction',
            HINT = 'Repeat the call in a read-write transaction on the primary.';
    END IF;
    -- Views and other relations have nothing to remove, and cannot be locked like tables. Triggers that a partition
    -- inherits are removed with those of its partitioned table.
    IF NOT EXISTS (SELECT FROM pg_trigger t
                   WHERE t.tgrelid = rel AND t.tgparentid = 0
                     AND t.tgfoid IN ('@extschema@.enrich_session()'::regprocedure, '@extschema@.forget_sessions()'::regprocedure))
       AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                       WHERE i.indrelid = rel AND c.relname LIKE '%cowrie\_enrich\_waiting%' AND NOT c.relispartition)
       AND NOT EXISTS (SELECT FROM pg_constraint c
                       WHERE c.conrelid = rel AND c.conname = 'cowrie_enrich_address' AND c.confrelid = '@extschema@.ip_inventory'::regclass
                         AND c.conparentid = 0)
    THEN
        IF EXISTS (SELECT FROM pg_class c WHERE c.oid = rel AND c.relispartition) THEN
            RAISE NOTICE 'partition % is not itself an attached session table', rel
                USING HINT = 'Call detach_session_table() for the partitioned table instead.';
        END IF;
        RETURN;
    END IF;
    members := @extschema@.lock_session_table(rel, true);
    -- Children first, because TimescaleDB removes a trigger of the parent from its chunks too.
    FOR member IN SELECT m.rel FROM unnest(members) WITH ORDINALITY m(rel, n) ORDER BY m.n DESC LOOP
        -- The table's own keys, and separate ones of its partitions.
        FOR ours IN
            SELECT c.conrelid, c.conname FROM pg_constraint c
            WHERE c.conname = 'cowrie_enrich_address' AND c.confrelid = '@extschema@.ip_inventory'::regclass
              AND c.conparentid = 0
              AND (c.conrelid = member OR c.conrelid IN (SELECT t.relid FROM pg_partition_tree(member) t))
        LOOP
            IF ours.conrelid <> member THEN
                PERFORM @extschema@.lock_session_table(ours.conrelid::regclass, true);
            END IF;
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', ours.conrelid::regclass, ours.conname);
        END LOOP;
        FOR ours IN
            SELECT t.tgname FROM pg_trigger t
            WHERE t.tgrelid = member AND t.tgparentid = 0
              AND (t.tgfoid IN ('@extschema@.enrich_session()'::regprocedure, '@extschema@.forget_sessions()'::regprocedure)
                   -- Replaced by another one.
                   OR t.tgname IN ('zz_cowrie_enrich_snapshot', 'zz_cowrie_enrich_count', 'zz_cowrie_enrich_truncate', 'COWRIE_ENRICH_reference'))
        LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', ours.tgname, member);
        END LOOP;
        FOR ours IN
            SELECT c.oid FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = member AND c.relname LIKE '%cowrie\_enrich\_waiting%'
        LOOP
            EXECUTE format('DROP INDEX %s', ours.oid::regclass);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION detach_session_table(regclass) IS
    'remove the extension''s triggers, index and foreign key from a session table and its inheritance children; the snapshot columns with their values, and the counts, remain';

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

CREATE PROCEDURE fold_statistics()
    LANGUAGE c AS 'MODULE_PATHNAME', 'fold_statistics_wrapper';
COMMENT ON PROCEDURE fold_statistics() IS
    'add pending counts of sessions and addresses to the inventories; counts for rows that other transactions have locked stay pending; commits after each batch unless called in a transaction block';
