-- One inventory for a cluster of Citus.
--
-- The sessions of a distributed table are on several nodes. On each node, the triggers append counts to the node's own
-- tables. The worker of the coordinator collects these counts, and adds them to the inventories of the coordinator.
--
-- A node sends its counts in numbered batches. It deletes counts and stores them as a batch in one transaction. The
-- coordinator stores the counts and the number of the batch in one transaction. With its next call, the coordinator
-- tells the node this number, and only then does the node make the next batch. Until then, the node sends the same batch
-- again. So each batch counts exactly once, whichever process is killed at whatever time. No distributed transaction is
-- needed.

CREATE TABLE cluster_member (
    node       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    joined_at  timestamptz NOT NULL DEFAULT now(),
    batch      bigint NOT NULL DEFAULT 0,
    content    jsonb,
    asked_upto inet
);
-- At most one row.
CREATE UNIQUE INDEX cluster_member_one_idx ON cluster_member ((true));
SELECT pg_catalog.pg_extension_config_dump('cluster_member', '');
COMMENT ON TABLE cluster_member IS
    'on a node of a Citus cluster whose counts go to the inventories of the coordinator: one row; otherwise empty';
COMMENT ON COLUMN cluster_member.node IS 'identity of this node, by which the coordinator recognises the node';
COMMENT ON COLUMN cluster_member.batch IS 'number of the batch that the node made last';
COMMENT ON COLUMN cluster_member.content IS
    'counts and requests of the last batch; null if the coordinator has confirmed that it stored the batch';
COMMENT ON COLUMN cluster_member.asked_upto IS
    'the last address with incomplete sessions for which the node has asked the coordinator';

CREATE TABLE cluster_node (
    node         uuid PRIMARY KEY,
    citus_node   integer UNIQUE,
    name         text NOT NULL,
    added_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    batch        bigint NOT NULL DEFAULT 0,
    waiting      jsonb,
    stored_by    xid8,
    collected_at timestamptz,
    last_error   text,
    retry_at     timestamptz
);
SELECT pg_catalog.pg_extension_config_dump('cluster_node', '');
COMMENT ON TABLE cluster_node IS
    'on the coordinator of a Citus cluster: the nodes whose counts the worker of the coordinator collects; empty until distribute_inventories() is called';
COMMENT ON COLUMN cluster_node.node IS 'identity of the node, from its table cluster_member';
COMMENT ON COLUMN cluster_node.citus_node IS 'id of the node in Citus (pg_dist_node.nodeid); null if the node was removed from the Citus cluster';
COMMENT ON COLUMN cluster_node.name IS 'host name and port of the node';
COMMENT ON COLUMN cluster_node.added_at IS 'time when the coordinator first tried to collect counts of the node';
COMMENT ON COLUMN cluster_node.batch IS 'number of the last batch of the node that the coordinator has stored';
COMMENT ON COLUMN cluster_node.stored_by IS 'transaction that stored the batch';
COMMENT ON COLUMN cluster_node.waiting IS
    'addresses of incomplete sessions on the node, each with the time of the answers that the node has';
COMMENT ON COLUMN cluster_node.collected_at IS 'time when the coordinator last collected counts of the node';
COMMENT ON COLUMN cluster_node.last_error IS 'why the last attempt to collect failed; null if the attempt succeeded';
COMMENT ON COLUMN cluster_node.retry_at IS
    'the worker does not ask the node before this time, because the last attempt failed; null if the attempt succeeded';

CREATE FUNCTION commit_batches_durably() RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- After a crash, the coordinator and the member must agree which batch was stored.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
END
$$;
COMMENT ON FUNCTION commit_batches_durably() IS
    'called by collect_from_nodes() and send_counts(): the commit of this transaction waits until the write-ahead log is on disk, even if synchronous_commit is off';

-- The worker of the coordinator waits for this function, so a lock on this node must not delay the worker for long.
CREATE FUNCTION send_counts(known_node uuid, stored_batch bigint, answers jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    me record;
    batch_content jsonb;
    addresses jsonb;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'the extension citus does not exist in this database',
            HINT = 'The coordinator of a Citus cluster calls this function. See docs/citus.md.';
    END IF;
    PERFORM @extschema@.commit_batches_durably();
    LOOP
        SELECT m.node, m.batch, m.content, m.asked_upto INTO me FROM @extschema@.cluster_member m FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO @extschema@.cluster_member DEFAULT VALUES ON CONFLICT DO NOTHING;
    END LOOP;
    IF me.node = known_node AND me.batch = stored_batch THEN
        me.content := NULL;
    END IF;
    -- The coordinator asks the providers, so the jobs of the time before this node became a member are not needed.
    DELETE FROM @extschema@.enrichment_job;
    DELETE FROM @extschema@.job_address;
    -- Stores the answers for the incomplete sessions of this node. Owner processes of this node then complete the
    -- sessions.
    WITH answer AS (
        SELECT (a.value ->> 0)::inet AS ip, (a.value ->> 1)::bigint AS asn, a.value -> 2 AS document,
               (a.value ->> 3)::timestamptz AS at, a.value ->> 4 AS version
        FROM jsonb_array_elements(answers) a
    ), network AS (
        INSERT INTO @extschema@.asn_inventory (asn_number)
        SELECT DISTINCT a.asn FROM answer a WHERE a.asn IS NOT NULL ORDER BY 1
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    INSERT INTO @extschema@.ip_inventory AS i (ip_address, current_asn, enrichment, enrichment_updated_at, enrichment_version)
    SELECT a.ip, a.asn, a.document, a.at, a.version FROM answer a
    WHERE (SELECT count(*) FROM network) >= 0
    ORDER BY a.ip
    ON CONFLICT (ip_address) DO UPDATE
    SET current_asn = excluded.current_asn, enrichment = excluded.enrichment,
        enrichment_updated_at = excluded.enrichment_updated_at, enrichment_version = excluded.enrichment_version;
    WITH locked AS MATERIALIZED (
        SELECT c.ip_address, c.rel
        FROM @extschema@.session_completion c
        WHERE c.ip_address = ANY (ARRAY(SELECT (a.value ->> 0)::inet FROM jsonb_array_elements(answers) a))
        ORDER BY c.ip_address, c.rel
        FOR NO KEY UPDATE
    )
    UPDATE @extschema@.session_completion c
    SET due_at = CASE WHEN c.leased_by IS NULL THEN now() ELSE c.due_at END,
        is_renewed = c.leased_by IS NOT NULL,
        attempts = CASE WHEN c.leased_by IS NULL THEN 0 ELSE c.attempts END,
        pending_since = COALESCE(c.pending_since, now())
    FROM locked l
    WHERE c.ip_address = l.ip_address AND c.rel = l.rel;

    IF me.content IS NULL THEN
        -- The counts in ip_inventory are those that were folded on this node before it became a member, or by a fold that had
        -- begun before. Rows that no incomplete session of this node needs are deleted, so that no answer becomes outdated.
        WITH taken AS (
            DELETE FROM @extschema@.session_delta
            WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM @extschema@.session_delta d LIMIT 20000))
            RETURNING ip_address, sessions, first_seen, last_seen
        ), locked AS MATERIALIZED (
            SELECT i.ip_address, i.session_count, i.first_seen, i.last_seen,
                   EXISTS (SELECT FROM @extschema@.session_completion c WHERE c.ip_address = i.ip_address) AS is_needed
            FROM @extschema@.ip_inventory i
            WHERE i.session_count <> 0
               OR NOT EXISTS (SELECT FROM @extschema@.session_completion c WHERE c.ip_address = i.ip_address)
            ORDER BY i.ip_address
            LIMIT 20000
            FOR UPDATE OF i SKIP LOCKED
        ), zeroed AS (
            UPDATE @extschema@.ip_inventory i SET session_count = 0
            FROM locked l WHERE i.ip_address = l.ip_address AND l.is_needed
        ), deleted AS (
            DELETE FROM @extschema@.ip_inventory i
            USING locked l WHERE i.ip_address = l.ip_address AND NOT l.is_needed
        ), requested AS (
            DELETE FROM @extschema@.enrichment_request
            WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM @extschema@.enrichment_request r LIMIT 5000))
            RETURNING ip_address, provider, priority, asn_number
        ), recount AS (
            DELETE FROM @extschema@.recount_request
            RETURNING requested_at, sessions, has_gaps
        ), counted AS (
            SELECT c.ip_address, sum(c.sessions)::bigint AS sessions, min(c.first_seen) AS first_seen, max(c.last_seen) AS last_seen
            FROM (TABLE taken
                  UNION ALL
                  SELECT l.ip_address, l.session_count, l.first_seen, l.last_seen FROM locked l WHERE l.session_count <> 0) c
            GROUP BY c.ip_address
        )
        SELECT NULLIF(jsonb_strip_nulls(jsonb_build_object(
            'counts', (SELECT jsonb_agg(jsonb_build_array(c.ip_address, c.sessions, c.first_seen, c.last_seen)) FROM counted c),
            'requests', (SELECT jsonb_agg(DISTINCT jsonb_build_array(r.ip_address, r.provider, r.priority, r.asn_number)) FROM requested r),
            'recounts', (SELECT jsonb_agg(jsonb_build_array(r.requested_at, r.sessions, r.has_gaps)) FROM recount r))), '{}')
        INTO batch_content;
        -- The inventories of this node are not used, so neither are the counts of their networks.
        DELETE FROM @extschema@.network_delta;
    END IF;
    SELECT jsonb_agg(jsonb_build_array(w.ip_address, i.enrichment_updated_at)), max(w.ip_address)
    INTO addresses, me.asked_upto
    FROM (SELECT DISTINCT c.ip_address FROM @extschema@.session_completion c
          WHERE c.ip_address > me.asked_upto OR me.asked_upto IS NULL
          ORDER BY c.ip_address LIMIT 500) w
    LEFT JOIN @extschema@.ip_inventory i ON i.ip_address = w.ip_address;
    UPDATE @extschema@.cluster_member m
    SET batch = m.batch + (batch_content IS NOT NULL)::integer, content = COALESCE(me.content, batch_content),
        asked_upto = me.asked_upto
    RETURNING m.batch, m.content INTO me.batch, me.content;
    RETURN jsonb_build_object('node', me.node, 'batch', me.batch, 'content', me.content, 'waiting', addresses);
END
$$;
COMMENT ON FUNCTION send_counts(uuid, bigint, jsonb) IS
    'called by the coordinator of a Citus cluster: returns the next batch of counts of this node, or again the last batch if the coordinator has not stored it; stores answers for incomplete sessions; makes this node a member whose counts go to the coordinator';

CREATE FUNCTION node_problem(problem text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Citus does not say why it could not connect.
    SELECT CASE
        WHEN problem NOT LIKE 'failed to connect%' THEN problem
        WHEN NOT r.rolcanlogin THEN format('cannot connect as role %I, which has no LOGIN; run ALTER ROLE %I LOGIN', r.rolname, r.rolname)
        ELSE format('cannot connect as role %I; if the node runs, check three conditions: the role has LOGIN on the node, pg_hba.conf of the node permits the connection, and the coordinator has the password of the role in pg_dist_authinfo or .pgpass', r.rolname) END
    FROM pg_roles r WHERE r.rolname = current_user
    $$;
COMMENT ON FUNCTION node_problem(text) IS
    'on the coordinator of a Citus cluster: the reason why a command of the current user failed on a node; if Citus could not connect, names what the user may lack';

CREATE FUNCTION collect_from_nodes(only_due boolean DEFAULT false, OUT counts bigint, OUT failed_nodes bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nodes record;
    called record;
    reply jsonb;
    stored bigint;
    called_at timestamptz;
    problem text;
BEGIN
    counts := 0;
    failed_nodes := 0;
    IF NOT EXISTS (SELECT FROM @extschema@.cluster_node) THEN
        RETURN;
    END IF;
    PERFORM @extschema@.commit_batches_durably();
    -- Two calls at the same time would ask for the same batches.
    LOCK TABLE @extschema@.cluster_node IN EXCLUSIVE MODE;
    -- A confirmed batch is deleted on its node. So a transaction must not confirm a batch that it has stored itself,
    -- because it may still be rolled back.
    IF EXISTS (SELECT FROM @extschema@.cluster_node c WHERE c.stored_by = pg_current_xact_id_if_assigned()) THEN
        RETURN;
    END IF;
    -- Uses EXECUTE, because the catalogs and functions exist only if Citus is installed.
    --
    -- The row of a removed node stays, because the node may be added again, and then sends its last batch again. The metrics
    -- leave out such a row.
    EXECUTE $citus$
        UPDATE @extschema@.cluster_node c SET citus_node = NULL
        WHERE c.citus_node IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node n WHERE n.nodeid = c.citus_node)
        $citus$;
    EXECUTE $citus$
        SELECT array_agg(n.nodeid ORDER BY n.nodeid) AS ids, array_agg(n.nodename ORDER BY n.nodeid) AS names,
               array_agg(n.nodeport ORDER BY n.nodeid) AS ports,
               array_agg(format('SELECT @extschema@.send_counts(%L, %s, %L)', c.node, COALESCE(c.batch, 0), COALESCE(
                   (SELECT jsonb_agg(jsonb_build_array(i.ip_address, i.current_asn, i.enrichment, i.enrichment_updated_at, i.enrichment_version))
                    FROM jsonb_array_elements(c.waiting) w
                    JOIN @extschema@.ip_inventory i ON i.ip_address = (w.value ->> 0)::inet
                    WHERE w.value ->> 1 IS NULL OR i.enrichment_updated_at > (w.value ->> 1)::timestamptz), '[]'))
                   ORDER BY n.nodeid) AS commands
        FROM pg_catalog.pg_dist_node n
        LEFT JOIN @extschema@.cluster_node c ON c.citus_node = n.nodeid
        WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0
          AND (NOT $1 OR c.retry_at IS NULL OR c.retry_at <= clock_timestamp())
        $citus$ INTO nodes USING only_due;
    called_at := clock_timestamp();
    FOR called IN
        EXECUTE $citus$
            SELECT $1[r.n] AS id, $2[r.n] || ':' || $3[r.n] AS name, r.success, r.result
            FROM pg_catalog.master_run_on_worker($2, $3, $4, true) WITH ORDINALITY r(node_name, node_port, success, result, n)
            $citus$ USING nodes.ids, nodes.names, nodes.ports, nodes.commands
    LOOP
        IF NOT called.success THEN
            failed_nodes := failed_nodes + 1;
            problem := @extschema@.node_problem(called.result);
            -- The worker repeats the attempt, but logs the same problem only once.
            IF NOT EXISTS (SELECT FROM @extschema@.cluster_node c WHERE c.citus_node = called.id AND c.last_error = problem) THEN
                RAISE WARNING 'could not collect the counts of node %: %', called.name, problem;
            END IF;
            -- An attempt that took long is not repeated soon, because the worker does no other work during the attempt.
            INSERT INTO @extschema@.cluster_node AS c (node, citus_node, name, last_error, retry_at)
            VALUES (gen_random_uuid(), called.id, called.name, problem,
                    clock_timestamp() + LEAST(10 * (clock_timestamp() - called_at), interval '1 minute'))
            ON CONFLICT (citus_node) DO UPDATE SET last_error = excluded.last_error, retry_at = excluded.retry_at;
            CONTINUE;
        END IF;
        reply := called.result::jsonb;
        SELECT c.batch INTO stored FROM @extschema@.cluster_node c WHERE c.node = (reply ->> 'node')::uuid;
        IF (reply ->> 'batch')::bigint > COALESCE(stored, 0) AND jsonb_typeof(reply -> 'content') = 'object' THEN
            INSERT INTO @extschema@.session_delta (ip_address, sessions, first_seen, last_seen)
            SELECT (d.value ->> 0)::inet, (d.value ->> 1)::bigint, (d.value ->> 2)::timestamptz, (d.value ->> 3)::timestamptz
            FROM jsonb_array_elements(reply #> '{content,counts}') d;
            GET DIAGNOSTICS stored = ROW_COUNT;
            counts := counts + stored;
            INSERT INTO @extschema@.enrichment_request (ip_address, provider, priority, asn_number)
            SELECT (d.value ->> 0)::inet, d.value ->> 1, (d.value ->> 2)::integer, (d.value ->> 3)::bigint
            FROM jsonb_array_elements(reply #> '{content,requests}') d;
            INSERT INTO @extschema@.recount_request (requested_at, sessions, has_gaps)
            SELECT (d.value ->> 0)::timestamptz, (d.value ->> 1)::bigint, (d.value ->> 2)::boolean
            FROM jsonb_array_elements(reply #> '{content,recounts}') d;
        END IF;
        DELETE FROM @extschema@.cluster_node c
        WHERE c.citus_node = called.id AND c.node <> (reply ->> 'node')::uuid;
        INSERT INTO @extschema@.cluster_node AS c (node, citus_node, name, batch, waiting, stored_by, collected_at)
        VALUES ((reply ->> 'node')::uuid, called.id, called.name, (reply ->> 'batch')::bigint,
                NULLIF(reply -> 'waiting', 'null'), pg_current_xact_id(), clock_timestamp())
        ON CONFLICT (node) DO UPDATE
        SET citus_node = excluded.citus_node, name = excluded.name, batch = excluded.batch, waiting = excluded.waiting,
            stored_by = excluded.stored_by, collected_at = excluded.collected_at, last_error = NULL, retry_at = NULL;
    END LOOP;
END
$$;
COMMENT ON FUNCTION collect_from_nodes(boolean) IS
    'on the coordinator of a Citus cluster: fetches the next batch of counts from each node into session_delta, and sends answers for incomplete sessions to the nodes; the worker calls this function every worker_naptime; with only_due, leaves out nodes whose retry_at has not passed; returns the number of counts, and the number of nodes that failed';

-- The setting enabled_sources itself is visible to superusers only.
CREATE FUNCTION cluster_sources() RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(string_agg(s.name, ',' ORDER BY s.name), '')
    FROM (SELECT 'maxmind' WHERE @extschema@.mmdb_in_service('city') IS NOT NULL
          UNION ALL
          SELECT p.provider FROM @extschema@.provider_status() p
          WHERE p.blocked_reason IS DISTINCT FROM 'the provider is not in cowrie_enrich.enabled_sources') s(name)
    $$;
COMMENT ON FUNCTION cluster_sources() IS
    'names of the enabled sources, in alphabetical order; called by distribute_inventories() and cluster_findings()';

CREATE FUNCTION cluster_findings(sources text, version text, collector name, owners name[], OUT is_fatal boolean, OUT finding text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT f.is_fatal, f.finding
    FROM (VALUES
        (@extschema@.library_version() <> version, true,
         format('has version %s of the library of cowrie_enrich, but the coordinator has version %s', @extschema@.library_version(), version)),
        (EXISTS (SELECT FROM @extschema@.worker_status() w WHERE w.role = 'launcher' AND w.state LIKE 'not started%'), true,
         'does not preload the library of cowrie_enrich; set shared_preload_libraries = ''citus, cowrie_enrich'', with citus first, and restart the server'),
        (@extschema@.cluster_sources() <> sources, true,
         format('has other sources in cowrie_enrich.enabled_sources than the coordinator, which has %L', sources)),
        (NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = collector), true,
         format('has no role %I; the worker of the coordinator connects as this role', collector)),
        (EXISTS (SELECT FROM pg_roles r WHERE r.rolname = collector AND NOT r.rolcanlogin), true,
         format('has role %I without LOGIN; the worker of the coordinator connects as this role, so run ALTER ROLE %I LOGIN', collector, collector)),
        (EXISTS (SELECT FROM pg_roles r WHERE r.rolname = collector
                    AND NOT has_table_privilege(r.oid, '@extschema@.cluster_member', 'UPDATE')), true,
         format('does not let role %I write to the tables of the extension; the worker of the coordinator connects as this role, so the role must own the extension on each node', collector)),
        -- Citus creates the triggers again as the table's owner when it moves or splits a shard.
        (EXISTS (SELECT FROM pg_roles r WHERE r.rolname = ANY (owners)
                    AND NOT (has_schema_privilege(r.oid, to_regnamespace('@extschema@'), 'USAGE')
                             AND has_function_privilege(r.oid, '@extschema@.enrich_session()', 'EXECUTE')
                             AND has_function_privilege(r.oid, '@extschema@.forget_sessions()', 'EXECUTE'))), true,
         (SELECT format('does not let %s, the owner of a session table, create the triggers of a shard; run on the coordinator: SELECT run_command_on_all_nodes(%L); SELECT run_command_on_all_nodes(%L)',
                        o.names, 'GRANT USAGE ON SCHEMA @extschema@ TO ' || o.names,
                        'GRANT EXECUTE ON FUNCTION @extschema@.enrich_session(), @extschema@.forget_sessions() TO ' || o.names)
          FROM (SELECT string_agg(format('%I', n.name), ', ') FROM unnest(owners) n(name)) o(names))),
        (EXISTS (SELECT FROM @extschema@.attached_tables a WHERE a.has_foreign_key), true,
         'has a session table with a foreign key to ip_inventory; call attach_session_table() for this table without add_foreign_key => true'),
        (current_setting('cowrie_enrich.worker_enabled', true) IS DISTINCT FROM 'on', false,
         'has cowrie_enrich.worker_enabled = off, so no process fills null snapshot columns of the sessions on this node'),
        (current_setting('citus.enable_unsafe_triggers', true) IS DISTINCT FROM 'on', false,
         'has citus.enable_unsafe_triggers = off, so Citus refuses the triggers of session tables'),
        (NOT COALESCE(@extschema@.mmdb_in_service('city'), true), false, 'has no mmdb file in service for cowrie_enrich.city_database'),
        (NOT COALESCE(@extschema@.mmdb_in_service('asn'), true), false, 'has no mmdb file in service for cowrie_enrich.asn_database')
        ) f(is_found, is_fatal, finding)
    WHERE f.is_found;
END
$$;
COMMENT ON FUNCTION cluster_findings(text, text, name, name[]) IS
    'called by distribute_inventories() on each node of a Citus cluster: problems of the node; a fatal problem prevents the call';

CREATE FUNCTION nodes_without_owner(OUT node text, OUT problem text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY EXECUTE $citus$
        SELECT r.node_name || ':' || r.node_port, @extschema@.node_problem(r.result)
        FROM (SELECT array_agg(n.nodename ORDER BY n.nodeid) AS names, array_agg(n.nodeport ORDER BY n.nodeid) AS ports,
                     array_agg('SELECT 1'::text) AS commands
              FROM pg_catalog.pg_dist_node n
              WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0) a
        CROSS JOIN LATERAL pg_catalog.master_run_on_worker(a.names, a.ports, a.commands, true) r(node_name, node_port, success, result)
        WHERE NOT r.success
        $citus$;
END
$$;
COMMENT ON FUNCTION nodes_without_owner() IS
    'called by distribute_inventories(): nodes to which the coordinator cannot connect as the role that owns the extension, each with the reason';

CREATE FUNCTION distribute_inventories() RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    extension_owner CONSTANT name := (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = '@extschema@.cluster_node'::regclass);
    -- The role as which the worker connects. Only some roles may read the setting worker_role.
    collector CONSTANT name := CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
        THEN COALESCE(NULLIF(current_setting('cowrie_enrich.worker_role', true), ''), extension_owner) ELSE current_user END;
    command CONSTANT text := format(
        $query$SELECT jsonb_agg(jsonb_build_array(f.is_fatal, f.finding)) FROM @extschema@.cluster_findings(%L, %L, %L, %L) f$query$,
        @extschema@.cluster_sources(), @extschema@.library_version(), collector,
        COALESCE((SELECT array_agg(DISTINCT pg_get_userbyid(c.relowner))
                  FROM @extschema@.attached_tables a JOIN pg_class c ON c.oid = a.rel), '{}'));
    nodes record;
    answers jsonb;
    fatal text;
    other text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'the extension citus does not exist in this database',
            HINT = 'See docs/citus.md. Without Citus, the inventories need no setup.';
    END IF;
    EXECUTE $citus$
        SELECT string_agg(CASE WHEN p.repmodel = 't'
                   THEN format('%s is a reference table, so each node would count its copy of each session; call detach_session_table().', p.logicalrelid)
                   ELSE format('%1$s has options that shards do not use; call set_session_table_options(''%1$s'', run_triggers => false, trust_input => false).', p.logicalrelid) END, E'\n')
        FROM pg_catalog.pg_dist_partition p
        WHERE p.repmodel = 't' AND EXISTS (SELECT FROM @extschema@.attached_tables a WHERE a.rel = p.logicalrelid)
           OR EXISTS (SELECT FROM @extschema@.session_table_option o WHERE o.rel = p.logicalrelid AND (o.run_triggers OR o.trust_input))
        $citus$ INTO fatal;
    IF fatal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'could not distribute the inventories: a session table does not work in a cluster',
            DETAIL = fatal, HINT = 'See docs/citus.md.';
    END IF;
    EXECUTE $citus$
        SELECT pg_catalog.citus_is_coordinator() AS is_here, array_agg(n.nodeid ORDER BY n.nodeid) AS ids,
               array_agg(n.nodename ORDER BY n.nodeid) AS names, array_agg(n.nodeport ORDER BY n.nodeid) AS ports,
               array_agg($1 ORDER BY n.nodeid) AS commands
        FROM pg_catalog.pg_dist_node n
        WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0
        $citus$ INTO nodes USING command;
    IF NOT nodes.is_here THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this node is not the coordinator of the Citus cluster',
            HINT = 'Repeat the call on the coordinator.';
    END IF;
    IF nodes.ids IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'the Citus cluster has no node besides the coordinator',
            HINT = 'Call citus_add_node() first. Without other nodes, the inventories need no setup.';
    END IF;
    EXECUTE $citus$
        SELECT jsonb_agg(jsonb_build_array($1[r.n] || ':' || $2[r.n],
                   CASE WHEN r.success THEN NULLIF(r.result, '')::jsonb
                        ELSE jsonb_build_array(jsonb_build_array(true, 'cannot be used by role ' || current_user || ': ' || @extschema@.node_problem(r.result))) END))
        FROM pg_catalog.master_run_on_worker($1, $2, $3, true) WITH ORDINALITY r(node_name, node_port, success, result, n)
        $citus$ INTO answers USING nodes.names, nodes.ports, nodes.commands;
    SELECT string_agg(format('Node %s %s.', a.value ->> 0, f.value ->> 1), E'\n') FILTER (WHERE (f.value ->> 0)::boolean),
           string_agg(format('Node %s %s.', a.value ->> 0, f.value ->> 1), E'\n') FILTER (WHERE NOT (f.value ->> 0)::boolean)
    INTO fatal, other
    FROM jsonb_array_elements(answers) a
    CROSS JOIN jsonb_array_elements(CASE jsonb_typeof(a.value -> 1) WHEN 'array' THEN a.value -> 1 ELSE '[]' END) f;
    -- If the caller can use all nodes, the worker may still lack something, because it connects as another role.
    IF fatal IS NULL AND collector = extension_owner AND collector <> current_user THEN
        SELECT string_agg(format('Node %s cannot be used by the worker of the coordinator: %s.', n.node, n.problem), E'\n') INTO fatal
        FROM @extschema@.nodes_without_owner() n;
    END IF;
    IF fatal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'could not distribute the inventories: a node is not ready',
            DETAIL = fatal, HINT = 'Solve these problems, then repeat the call. See docs/citus.md.';
    END IF;
    IF other IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = 'some nodes lack a part of the setup', DETAIL = other, HINT = 'See docs/citus.md.';
    END IF;
    -- The identity of each node replaces these placeholders when its counts are first collected.
    INSERT INTO @extschema@.cluster_node (node, citus_node, name)
    SELECT gen_random_uuid(), n.id, n.name || ':' || n.port
    FROM unnest(nodes.ids, nodes.names, nodes.ports) n(id, name, port)
    ON CONFLICT (citus_node) DO NOTHING;
    -- From now on, the nodes neither fold counts nor ask providers. If this transaction is rolled back, the nodes keep
    -- their counts until the call is repeated.
    PERFORM @extschema@.collect_from_nodes();
    RETURN cardinality(nodes.ids);
END
$$;
COMMENT ON FUNCTION distribute_inventories() IS
    'on the coordinator of a Citus cluster: from now on, the inventories of the coordinator contain the counts of all nodes; returns the number of other nodes; experimental';

CREATE FUNCTION leave_cluster(known_node uuid, stored_batch bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me record;
BEGIN
    SELECT m.node, m.batch, m.content INTO me FROM @extschema@.cluster_member m FOR UPDATE;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    IF me.content IS NOT NULL AND (me.node <> known_node OR me.batch <> stored_batch) THEN
        RETURN false;
    END IF;
    DELETE FROM @extschema@.cluster_member;
    RETURN true;
END
$$;
COMMENT ON FUNCTION leave_cluster(uuid, bigint) IS
    'called by undistribute_inventories() on each node of a Citus cluster: from now on, this node adds counts to its own inventories; returns false if the coordinator has not stored the last batch of this node';

CREATE PROCEDURE undistribute_inventories()
    LANGUAGE plpgsql AS $$
DECLARE
    nodes record;
    failed text;
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.cluster_node) THEN
        RAISE NOTICE USING MESSAGE = 'this database does not collect the counts of a Citus cluster',
            HINT = 'If a call of distribute_inventories() was rolled back, call distribute_inventories() again first.';
        RETURN;
    END IF;
    -- Stores the last batch of each node. Each batch is confirmed in a later transaction. Each transaction must see what was committed
    -- while it waited for the lock of another collection.
    FOR turn IN 1..2 LOOP
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        PERFORM @extschema@.collect_from_nodes();
    END LOOP;
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    LOCK TABLE @extschema@.cluster_node IN EXCLUSIVE MODE;
    EXECUTE $citus$
        SELECT pg_catalog.array_agg(n.nodename ORDER BY n.nodeid) AS names, pg_catalog.array_agg(n.nodeport ORDER BY n.nodeid) AS ports,
               pg_catalog.array_agg(pg_catalog.format('SELECT @extschema@.leave_cluster(%L, %s)', c.node, c.batch) ORDER BY n.nodeid) AS commands
        FROM pg_catalog.pg_dist_node n
        JOIN @extschema@.cluster_node c ON c.citus_node OPERATOR(pg_catalog.=) n.nodeid
        $citus$ INTO nodes;
    EXECUTE $citus$
        SELECT pg_catalog.string_agg(r.node_name OPERATOR(pg_catalog.||) ': ' OPERATOR(pg_catalog.||) r.result, E'\n')
        FROM pg_catalog.master_run_on_worker($1, $2, $3, true) r
        WHERE NOT r.success OR r.result OPERATOR(pg_catalog.<>) 't'
        $citus$ INTO failed USING nodes.names, nodes.ports, nodes.commands;
    IF failed IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'could not end the collection of counts: some nodes did not answer, or have counts that are not stored yet',
            DETAIL = failed, HINT = 'Repeat the call when all nodes run.';
    END IF;
    DELETE FROM @extschema@.cluster_node;
    COMMIT;
END
$$;
COMMENT ON PROCEDURE undistribute_inventories() IS
    'on the coordinator of a Citus cluster: from now on, each node adds the counts of its sessions to its own inventories; the counts that the coordinator has stay there; experimental';

CREATE FUNCTION unsent_counts(known_node uuid, stored_batch bigint) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(jsonb_build_array(c.ip_address, c.sessions))
    FROM (
        SELECT p.ip_address, sum(p.sessions)::bigint AS sessions
        FROM (SELECT d.ip_address, d.sessions FROM @extschema@.session_delta d
              UNION ALL
              SELECT i.ip_address, i.session_count FROM @extschema@.ip_inventory i WHERE i.session_count <> 0
              UNION ALL
              SELECT (b.value ->> 0)::inet, (b.value ->> 1)::bigint
              FROM @extschema@.cluster_member m
              CROSS JOIN jsonb_array_elements(m.content -> 'counts') b
              WHERE (m.node = $1 AND m.batch = $2) IS NOT TRUE) p
        GROUP BY p.ip_address) c
    $$;
COMMENT ON FUNCTION unsent_counts(uuid, bigint) IS
    'called by recount_distributed_sessions() on each node of a Citus cluster: counts of this node that the coordinator has not stored';

CREATE FUNCTION correct_distributed_counts() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attached record;
    nodes record;
    failed text;
    queries text;
    corrected bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM @extschema@.cluster_node) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this database does not collect the counts of a Citus cluster',
            HINT = 'Call refresh_session_counts(), or first call distribute_inventories() on the coordinator of a cluster.';
    END IF;
    -- While writers are locked out on all nodes, no count can change, and the sum of all stored and pending counts can be
    -- compared with the sessions. Prepared transactions hold their locks too.
    FOR attached IN
        SELECT a.rel, a.ip_column, pg_get_userbyid(c.relowner) AS owner, r.rolsuper OR r.rolname = current_user AS is_trusted
        FROM @extschema@.attached_tables a
        JOIN pg_class c ON c.oid = a.rel
        JOIN pg_roles r ON r.oid = c.relowner
        WHERE a.ip_column <> ''
        ORDER BY a.rel
    LOOP
        -- A query on a table can run code of the table's owner with the rights of the caller.
        IF NOT attached.is_trusted THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = format('could not count the sessions of %s, because the table belongs to role %I', attached.rel, attached.owner),
                DETAIL = 'A query on a table can run code of the table''s owner with the rights of the caller.',
                HINT = 'Let a superuser, or the role that calls recount_distributed_sessions(), own the session tables of a cluster.';
        END IF;
        -- Without this lock, the name of the table could refer to another table in the following commands.
        PERFORM @extschema@.lock_session_table(attached.rel, false);
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', attached.rel);
        queries := concat_ws(' UNION ALL ', queries, format(
            'SELECT @extschema@.session_address(s.%I) AS ip_address, count(*) AS sessions FROM %s s GROUP BY 1',
            attached.ip_column, attached.rel));
    END LOOP;
    LOCK TABLE @extschema@.cluster_node IN EXCLUSIVE MODE;
    LOCK TABLE @extschema@.session_delta IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE $citus$
        SELECT array_agg(n.nodename ORDER BY n.nodeid) AS names, array_agg(n.nodeport ORDER BY n.nodeid) AS ports,
               array_agg(format('SELECT @extschema@.unsent_counts(%L, %s)', c.node, COALESCE(c.batch, 0)) ORDER BY n.nodeid) AS commands
        FROM pg_catalog.pg_dist_node n
        LEFT JOIN @extschema@.cluster_node c ON c.citus_node = n.nodeid
        WHERE n.noderole = 'primary' AND n.isactive AND n.groupid <> 0
        $citus$ INTO nodes;
    CREATE TEMP TABLE cowrie_enrich_unsent ON COMMIT DROP AS SELECT NULL::text AS node, false AS success, NULL::text AS result LIMIT 0;
    EXECUTE $citus$
        INSERT INTO pg_temp.cowrie_enrich_unsent
        SELECT r.node_name, r.success, r.result FROM pg_catalog.master_run_on_worker($1, $2, $3, true) r
        $citus$ USING nodes.names, nodes.ports, nodes.commands;
    SELECT string_agg(u.node || ': ' || u.result, E'\n') INTO failed FROM pg_temp.cowrie_enrich_unsent u WHERE NOT u.success;
    IF failed IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'connection_exception',
            MESSAGE = 'could not read the pending counts of each node', DETAIL = failed, HINT = 'Repeat the call when all nodes run.';
    END IF;
    CREATE TEMP TABLE cowrie_enrich_counted (ip_address inet, sessions bigint) ON COMMIT DROP;
    IF queries IS NOT NULL THEN
        EXECUTE 'INSERT INTO pg_temp.cowrie_enrich_counted ' || queries;
    END IF;
    WITH counted AS (
        SELECT c.ip_address, sum(c.sessions)::bigint AS sessions
        FROM pg_temp.cowrie_enrich_counted c WHERE c.ip_address IS NOT NULL GROUP BY c.ip_address
    ), believed AS (
        SELECT b.ip_address, sum(b.sessions)::bigint AS sessions
        FROM (SELECT i.ip_address, i.session_count AS sessions FROM @extschema@.ip_inventory i
              UNION ALL
              SELECT d.ip_address, d.sessions FROM @extschema@.session_delta d
              UNION ALL
              SELECT (p.value ->> 0)::inet, (p.value ->> 1)::bigint
              FROM pg_temp.cowrie_enrich_unsent u
              CROSS JOIN jsonb_array_elements(COALESCE(NULLIF(u.result, ''), '[]')::jsonb) p) b
        GROUP BY b.ip_address
    )
    INSERT INTO @extschema@.session_delta (ip_address, sessions)
    SELECT COALESCE(c.ip_address, b.ip_address), COALESCE(c.sessions, 0) - COALESCE(b.sessions, 0)
    FROM counted c
    FULL JOIN believed b ON b.ip_address = c.ip_address
    WHERE COALESCE(c.sessions, 0) <> COALESCE(b.sessions, 0);
    GET DIAGNOSTICS corrected = ROW_COUNT;
    DELETE FROM @extschema@.recount_request;
    RETURN corrected;
END
$$;
COMMENT ON FUNCTION correct_distributed_counts() IS
    'called by recount_distributed_sessions(): locks all session tables against writers, counts their sessions, and appends the corrections to session_delta; returns the number of corrections';

CREATE PROCEDURE recount_distributed_sessions()
    LANGUAGE plpgsql AS $$
DECLARE
    corrected bigint;
BEGIN
    -- Without the pending counts of the nodes, the locks are held for less time. All transactions of this procedure must see what was
    -- committed while they waited for locks, regardless of default_transaction_isolation.
    FOR turn IN 1..1000 LOOP
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        EXIT WHEN (SELECT c.counts FROM @extschema@.collect_from_nodes(turn OPERATOR(pg_catalog.>) 1) c) OPERATOR(pg_catalog.=) 0;
    END LOOP;
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    corrected := @extschema@.correct_distributed_counts();
    COMMIT;
    RAISE NOTICE 'recount_distributed_sessions: addresses_corrected %', corrected;
END
$$;
COMMENT ON PROCEDURE recount_distributed_sessions() IS
    'on the coordinator of a Citus cluster, instead of refresh_session_counts(): recounts the sessions of all attached tables and corrects session_count; no client can write sessions meanwhile; experimental';
