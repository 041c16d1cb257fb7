-- Attached tables, and for each table whether it is intact.

-- tgargs contains the arguments of a trigger, each followed by a NUL byte. The view reads the hexadecimal form of
-- tgargs. In this form every byte has two digits, so no letter of a name can be mistaken for a NUL byte.
--
-- An address column or snapshot column must not be generated, because a generated column has no value yet when a BEFORE
-- trigger fires. A time column may be a stored generated column. It must not be a virtual generated column, because a
-- virtual column has no value in the row that a trigger gets.
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
          -- A shard of a Citus table is not a session table of its own.
          AND NOT (t.tgname::pg_catalog.text OPERATOR(pg_catalog.~) '^zz_cowrie_enrich_.*_[0-9]+$'
                   AND r.relname::pg_catalog.text OPERATOR(pg_catalog.~) '_[0-9]+$')
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
    -- The reason why the addresses of the table's sessions cannot be read. The index on addresses shows which address
    -- column the table had when it was attached.
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
    -- The first trigger that is missing, replaced or disabled. A partition that is itself partitioned needs no triggers.
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
             -- An inheritance child may lack the TRUNCATE trigger, because TimescaleDB does not copy this trigger to the chunks of
             -- a table.
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) r.oid)
        LEFT JOIN pg_catalog.pg_trigger t
          ON t.tgrelid OPERATOR(pg_catalog.=) r.oid AND t.tgname OPERATOR(pg_catalog.=) w.name
        -- Triggers that were created without attach_session_table() may have other names.
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
        THEN pg_catalog.format('%s lacks the index of sessions with null snapshot columns', x.rel) END AS reason) n;
COMMENT ON VIEW attached_tables IS
    'attached session tables, which are tables with triggers of the extension; the row of a partitioned table also covers its partitions; an inheritance child has its own row';
COMMENT ON COLUMN attached_tables.is_intact IS
    'true if the columns, indexes, triggers, partitions and inheritance children of the table are as attach_session_table() requires; otherwise not_intact_reason names the problem';
COMMENT ON COLUMN attached_tables.not_intact_reason IS
    'problem of a column, index, trigger, partition or inheritance child of the table, for example a disabled trigger; null if there is none';
COMMENT ON COLUMN attached_tables.is_readable IS
    'true if refresh_session_counts() can read the addresses of all sessions of the table; while is_readable is false for an attached table, refresh_session_counts() lowers no counts, because unread sessions would be missing from the counts';
COMMENT ON COLUMN attached_tables.blocked_reason IS
    'why a trigger prevents the extension from filling null snapshot columns of the table or of a partition; null if no trigger prevents this; see blocked_session_tables';
COMMENT ON COLUMN attached_tables.inherits_from IS
    'attached table from which this table inherits; null if there is none; campaign_networks() for the parent table includes the sessions of this table';
