-- Attaches and detaches session tables.

-- Reads only the system catalogs, so no code of the table's owner runs. The estimated number of rows also comes from
-- the system catalogs, where PostgreSQL stored this number when it built the index.
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
        SELECT 1, format('Rows with a null network%s: about %s.',
                         CASE WHEN w.has_types THEN ', country or type of address' ELSE ' or country' END, w.rows),
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
                   -- DATACENTER is the longest known type, with 10 letters.
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
        -- Bits of tgtype: 1 and 2 are set for a BEFORE trigger for each row. 4 is INSERT, and 16 is UPDATE.
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
    'problems that can prevent the enrichment or the correct counting of sessions in an attached table, each with a remedy; attach_session_table() reports these problems';

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
    citus_kind text;
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
            MESSAGE = format('%s cannot be a session table', rel),
            DETAIL = 'The table belongs to PostgreSQL or to an extension.';
    END IF;
    IF class.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is a temporary table', rel),
            DETAIL = 'Only one connection can read a temporary table, so the extension could neither fill null snapshot columns of the table nor recount its sessions.',
            HINT = 'Call attach_session_table() for a permanent table.';
    END IF;
    SELECT p.relid::regclass AS rel INTO seen
    FROM pg_partition_tree(attach_session_table.rel) p JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'f'
    ORDER BY p.relid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('partition %s of %s is a foreign table', seen.rel, rel),
            DETAIL = 'The rows of a foreign table are on another server, so the extension could neither fill null snapshot columns of the partition nor recount its sessions.',
            HINT = format('Detach the partition with ALTER TABLE %s DETACH PARTITION %s, or install the extension on the server that stores the sessions.', rel, seen.rel);
    END IF;
    -- A partition of an attached table already has the triggers of its partitioned table.
    SELECT a.rel INTO seen
    FROM pg_partition_ancestors(attach_session_table.rel) p JOIN @extschema@.attached_tables a ON a.rel = p.relid
    WHERE p.relid <> attach_session_table.rel LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s is a partition of an attached table', rel),
            HINT = format('The triggers of the partitioned table already enrich sessions in the partition. To attach only the partition, first call detach_session_table(%L).', seen.rel);
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
        -- Uses EXECUTE, because the table pg_dist_partition exists only if Citus is installed. The value 'n' of partmethod
        -- with the value 't' of repmodel means a reference table.
        EXECUTE $citus$
            SELECT CASE WHEN d.partmethod = 'n' AND d.repmodel = 't' THEN 'reference' ELSE 'distributed' END
            FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid::oid = $1
            $citus$ INTO citus_kind USING rel::oid;
        IF citus_kind = 'reference' THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = format('%s is a reference table of Citus', rel),
                DETAIL = 'Each node stores a copy of each row, so each session would be counted once for each node.',
                HINT = 'Distribute the table with create_distributed_table(). See docs/citus.md.';
        END IF;
        IF citus_kind IS NOT NULL AND current_setting('citus.enable_unsafe_triggers', true) IS DISTINCT FROM 'on' THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('%s is distributed by Citus, and Citus refuses triggers', rel),
                HINT = 'Set citus.enable_unsafe_triggers = on in postgresql.conf of each node, and reload the settings. See docs/citus.md.';
        END IF;
        IF citus_kind IS NOT NULL AND (add_foreign_key OR run_triggers OR trust_input) THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = format('%s is distributed by Citus, so it can have neither a foreign key to ip_inventory nor options', rel),
                DETAIL = 'The inventories and the options of tables are local tables of each node.',
                HINT = 'Leave out the arguments add_foreign_key, run_triggers and trust_input. See docs/citus.md.';
        END IF;
    END IF;

    -- Because of this lock, other transactions can no longer rename or drop the tables. If triggers must be dropped or
    -- columns must be added, the lock also blocks readers. The strongest necessary lock is taken at once, because a
    -- transaction that later waits for a stronger lock can deadlock.
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
                -- If a snapshot column is missing, it is added to this table later, or inherited when it is added to
                -- the parent table.
                CONTINUE WHEN seen.what = 'snapshot';
                RAISE EXCEPTION USING ERRCODE = 'undefined_column',
                    MESSAGE = format('column %I of %s does not exist', seen.name, member),
                    HINT = format('Pass the name of the %s column as the %s argument of attach_session_table(). In Cowrie''s table sessions, the column is %L.', seen.what,
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
    -- The INSERT of a session never waits until a new mmdb file is in service. So this lookup puts the configured files
    -- into service before the first INSERT.
    PERFORM @extschema@.ip_asn('192.0.2.1'::inet);
    FOREACH member IN ARRAY members LOOP
        -- Another extension, such as TimescaleDB, may already have copied the triggers and indexes of a parent table to
        -- its children.
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = 'zz_cowrie_enrich_snapshot') THEN
            -- The trigger fires on every UPDATE, because a BEFORE trigger of the user may change the address even if the UPDATE
            -- does not set the address. BEFORE triggers fire in the order of their names. The name of this trigger begins with
            -- "zz", because it must see the address that the user's triggers have set.
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
        -- The worker finds sessions with null snapshot columns by this index, which contains only such sessions. While no source of
        -- types is enabled, the index leaves out a session in which only the type is null. Otherwise the index would contain every
        -- session.
        IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                       WHERE i.indrelid = member AND c.relname LIKE '%cowrie\_enrich\_waiting%') THEN
            SELECT c.relnamespace, left(c.relname, 40) || '_cowrie_enrich_waiting' AS index_name,
                   CASE a.atttypid WHEN 'inet'::regtype THEN format('pg_catalog.host(%I)', ip_column)
                                   ELSE format('%I::text', ip_column) END AS address_text
            INTO present
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ip_column
            WHERE c.oid = member;
            index_name := present.index_name;
            -- PostgreSQL cuts a name after 63 bytes. The cut part would contain the end of the name, which identifies
            -- the index.
            IF octet_length(index_name) > 63
               OR EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name AND c.relnamespace = present.relnamespace) THEN
                index_name := 'cowrie_enrich_waiting_' || member::oid;
            END IF;
            -- The index expression calls no function of the extension, because PostgreSQL would check the privilege
            -- EXECUTE of each role that inserts a session.
            EXECUTE format(
                'CREATE INDEX %I ON %s ((%s::%s.parsed_address::inet)) WHERE snapshot_asn IS NULL OR snapshot_country IS NULL%s',
                index_name, member, present.address_text, own,
                CASE WHEN @extschema@.sessions_wait_for_types() THEN ' OR snapshot_ip_type IS NULL' ELSE '' END);
        END IF;
        -- If an argument is null, the option keeps its value from an earlier call.
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
          SELECT 0, 'Citus creates no TRUNCATE triggers on existing shards, so a TRUNCATE does not reduce the counts.',
                 'Call attach_session_table() before create_distributed_table(). Or call recount_distributed_sessions() after each TRUNCATE.'
          WHERE citus_kind IS NOT NULL
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
    'add the snapshot columns, triggers and a small partial index to a session table and its inheritance children; in a second call for the same table, repeat all arguments: a call without add_foreign_key => true drops the foreign key';

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
    -- If a relation has none of these objects, there is nothing to remove. Returns before the lock, because the relation may be a
    -- view, and a view cannot be locked like a table. Triggers that a partition inherits are removed with the triggers of its
    -- partitioned table.
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
    -- Detaches the children before their parent. In the opposite order, TimescaleDB would remove the triggers from the
    -- chunks together with the triggers of the parent.
    FOR member IN SELECT m.rel FROM unnest(members) WITH ORDINALITY m(rel, n) ORDER BY m.n DESC LOOP
        -- The foreign keys of the table itself, and separate foreign keys of its partitions.
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
                   -- A user may have replaced a trigger of the extension by a trigger with the same name that calls
                   -- another function.
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
    'remove the extension''s triggers, index and foreign key from a session table and its inheritance children; keeps the snapshot columns with their values, and the counts in the inventories';
