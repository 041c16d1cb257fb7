-- Functions and views for analysis. Session tables belong to users and can have any name. So each call of a function
-- that reads sessions builds its query, and runs the query with the rights of the caller. Queries that read only the
-- inventories are views.
--
-- The snapshot columns of a session contain its network, so the queries need no join for each session. They group the
-- sessions first, and join only the groups to asn_inventory, to get the names of the networks.

CREATE FUNCTION attached_columns(
    rel regclass, OUT ip_column text, OUT time_column text, OUT is_intact boolean)
    RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.ip_column, a.time_column, a.is_intact
        FROM @extschema@.attached_tables a
        WHERE a.rel = $1 OR a.rel IN (SELECT p.relid FROM pg_partition_ancestors($1) p)
        ORDER BY a.ip_column, a.time_column
        LIMIT 1
    $$;
COMMENT ON FUNCTION attached_columns(regclass) IS
    'address column and time column of an attached session table, or of the attached table of a partition, and whether the table is intact; no row if the table is not attached';

CREATE FUNCTION campaign_query(rel regclass, condition text DEFAULT 'true', stored_time_zone text DEFAULT 'UTC') RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'campaign_query_wrapper';
COMMENT ON FUNCTION campaign_query(regclass, text, text) IS
    'text of the query that campaign_networks() runs for the same arguments, so that you can EXPLAIN or adapt the query';

-- The functions that read sessions take a condition from the caller. They set no search_path, because PostgreSQL must
-- resolve the names in the condition with the caller's search_path. The condition must not write.
CREATE FUNCTION campaign_networks(
    rel regclass, condition text DEFAULT 'true', stored_time_zone text DEFAULT 'UTC', OUT asn_number bigint, OUT organization_name text,
    OUT asn_type text, OUT countries text[], OUT ip_types text[], OUT sessions bigint, OUT addresses bigint,
    OUT first_seen timestamptz, OUT last_seen timestamptz)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'campaign_networks_wrapper';
COMMENT ON FUNCTION campaign_networks(regclass, text, text) IS
    'networks of a campaign, one row for each network. Networks with the most sessions come first. A campaign is the set of sessions in an attached table that meet an SQL condition. In the condition, s is the alias of the table. Runs with the caller''s privileges';

CREATE FUNCTION campaign_addresses(
    rel regclass, condition text DEFAULT 'true', stored_time_zone text DEFAULT 'UTC', since timestamptz DEFAULT NULL,
    OUT ip_address inet, OUT sessions bigint,
    OUT first_seen timestamptz, OUT last_seen timestamptz,
    OUT asn_then bigint, OUT organization_then text, OUT country_then text,
    OUT asn_now bigint, OUT organization_now text, OUT country_now text, OUT change text,
    OUT ip_types text[], OUT is_scanner boolean)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'campaign_addresses_wrapper';
COMMENT ON FUNCTION campaign_addresses(regclass, text, text, timestamptz) IS
    'addresses of a campaign, one row for each address. Shows the network and country at the last session of the campaign, and the current network and country. Addresses with the most sessions come first. Takes the same arguments as campaign_networks(). Runs with the caller''s privileges';

-- Compares two attributions, for attribution_change() and for the column "change" of campaign_addresses(). XX and ZZ
-- stand for an unknown country.
CREATE FUNCTION attribution_change_between(asn_then bigint, country_then text, asn_now bigint, country_now text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN asn_then OPERATOR(pg_catalog.<>) asn_now THEN 'ASN_CHANGED'
        WHEN asn_then IS NULL OR asn_now IS NULL THEN 'UNKNOWN'
        WHEN COALESCE(country_then, 'XX') OPERATOR(pg_catalog.=) ANY ('{XX,ZZ}'::pg_catalog.text[])
          OR COALESCE(country_now, 'XX') OPERATOR(pg_catalog.=) ANY ('{XX,ZZ}'::pg_catalog.text[]) THEN 'UNKNOWN'
        WHEN country_then OPERATOR(pg_catalog.<>) country_now THEN 'COUNTRY_CHANGED'
        ELSE 'STABLE'
    END;
COMMENT ON FUNCTION attribution_change_between(bigint, text, bigint, text) IS
    'compares the ASN and the country of an address at two times; returns ASN_CHANGED if the ASNs differ, otherwise COUNTRY_CHANGED or STABLE; returns UNKNOWN if a value that the comparison needs is missing';

CREATE FUNCTION attribution_change(ip inet, asn bigint, country text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT @extschema@.attribution_change_between(
            recorded.asn, CASE WHEN recorded.country ~ '^[A-Z]{2}$' THEN recorded.country END, i.current_asn, i.geo_country)
        FROM (
            SELECT CASE WHEN $2 BETWEEN 1 AND 4294967295 THEN $2 END AS asn, upper(btrim($3)) AS country
        ) recorded
        LEFT JOIN @extschema@.ip_inventory i ON i.ip_address = @extschema@.session_address($1)
    $$;
COMMENT ON FUNCTION attribution_change(inet, bigint, text) IS
    'compares the ASN and the country that were recorded for an address, for example in snapshot columns, with the current values in ip_inventory. Returns ASN_CHANGED if the ASNs differ, otherwise COUNTRY_CHANGED or STABLE. Returns UNKNOWN if a value that the comparison needs is missing. Needs SELECT on ip_inventory';

CREATE FUNCTION session_timeline(
    rel regclass, bucket interval, by text DEFAULT NULL, time_zone text DEFAULT 'UTC',
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, condition text DEFAULT 'true',
    stored_time_zone text DEFAULT 'UTC',
    OUT bucket_start timestamptz, OUT value text, OUT sessions bigint, OUT addresses bigint)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'session_timeline_wrapper';
COMMENT ON FUNCTION session_timeline(regclass, interval, text, text, timestamptz, timestamptz, text, text) IS
    'numbers of sessions and addresses of an attached table in each time bucket. If the argument "by" names a column, the result has one row for each bucket and value of the column. Buckets of days and months begin at midnight in time_zone. stored_time_zone is the time zone of the values in a time column of type timestamp without time zone. Runs with the caller''s privileges';

CREATE VIEW network_activity AS
    SELECT n.asn_number, n.organization_name, n.organization_country, n.asn_type, n.is_known_hosting, n.is_known_vpn,
           n.unique_ip_count, n.total_session_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) n.total_session_count
               OPERATOR(pg_catalog./) NULLIF(t.sessions, 0::pg_catalog.numeric), 4) AS session_percent,
           n.first_seen, n.last_seen
    FROM @extschema@.asn_inventory n
    CROSS JOIN (SELECT pg_catalog.sum(a.total_session_count) AS sessions FROM @extschema@.asn_inventory a) t
    ORDER BY n.total_session_count DESC;
COMMENT ON VIEW network_activity IS
    'networks with the numbers of their current addresses and sessions, and the times of the first and last session; networks with the most sessions come first; recent sessions are missing until the worker or fold_statistics() adds their counts';
COMMENT ON COLUMN network_activity.session_percent IS
    'sessions of this network as a percentage of the sessions of all networks';

-- Looks up the previous row of the history for each row. So a query about one address, one network or the last week
-- reads only the rows that the query needs. A window function would read the whole history in each query.
CREATE VIEW moved_addresses AS
    SELECT h.ip_address, b.asn_number AS asn_before, nb.organization_name AS organization_before,
           h.asn_number AS asn_after, na.organization_name AS organization_after,
           h.observed_at AS moved_at, h.verification_source
    FROM @extschema@.ip_asn_history h
    CROSS JOIN LATERAL (
        SELECT p.asn_number
        FROM @extschema@.ip_asn_history p
        WHERE p.ip_address OPERATOR(pg_catalog.=) h.ip_address
          AND p.observed_at OPERATOR(pg_catalog.<) h.observed_at
        ORDER BY p.observed_at DESC
        LIMIT 1) b
    LEFT JOIN @extschema@.asn_inventory nb ON nb.asn_number OPERATOR(pg_catalog.=) b.asn_number
    LEFT JOIN @extschema@.asn_inventory na ON na.asn_number OPERATOR(pg_catalog.=) h.asn_number
    WHERE b.asn_number OPERATOR(pg_catalog.<>) h.asn_number;
COMMENT ON VIEW moved_addresses IS
    'one row for each change of an address to another network, from ip_asn_history: old and new network, time of detection, source';
COMMENT ON COLUMN moved_addresses.moved_at IS
    'time when the extension detected the change; the address may have moved earlier';

CREATE VIEW persistent_addresses AS
    SELECT i.ip_address, i.current_asn, n.organization_name, n.asn_type, i.geo_country, i.ip_types, i.is_scanner,
           i.session_count, i.first_seen, i.last_seen,
           @extschema@.seen_over(i.first_seen, i.last_seen) AS seen_over,
           pg_catalog.round(86400 OPERATOR(pg_catalog.*) i.session_count OPERATOR(pg_catalog./)
               EXTRACT(epoch FROM @extschema@.seen_over(i.first_seen, i.last_seen)), 1) AS sessions_per_day
    FROM @extschema@.ip_inventory i
    LEFT JOIN @extschema@.asn_inventory n ON n.asn_number OPERATOR(pg_catalog.=) i.current_asn
    WHERE @extschema@.seen_over(i.first_seen, i.last_seen) OPERATOR(pg_catalog.>=) interval '1 day'
    ORDER BY @extschema@.seen_over(i.first_seen, i.last_seen) DESC;
COMMENT ON VIEW persistent_addresses IS
    'addresses whose first and last session are at least one day apart, in descending order of the time between these sessions; recent sessions are missing until the worker or fold_statistics() adds their counts';
COMMENT ON COLUMN persistent_addresses.seen_over IS 'time between the first and the last session from the address';

-- The indexes contain all columns that campaign_networks(), session_timeline() and a comparison with the inventory
-- read, so index-only scans are possible. The index by time also contains the column of the sensor, because timelines
-- can be grouped by sensor.
CREATE FUNCTION session_index_commands(rel regclass, writers_wait boolean DEFAULT false) RETURNS SETOF text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attached record;
    owner_table record;
    wanted record;
    present record;
    index_name text;
    cover text;
    sensor text;
    seen text;
BEGIN
    SELECT a.ip_column, a.time_column, c.atttypid = 'inet'::regtype AS is_inet
    INTO attached
    FROM @extschema@.attached_tables a
    LEFT JOIN pg_attribute c ON c.attrelid = a.rel AND c.attname = a.ip_column AND NOT c.attisdropped
    WHERE a.rel = session_index_commands.rel LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s is not an attached session table', rel),
            HINT = 'Call attach_session_table() for the table first.';
    END IF;
    SELECT c.relname, c.relnamespace, n.nspname,
           -- CREATE INDEX CONCURRENTLY does not support partitioned tables. So while an index of a partitioned table is
           -- built, writers of the table wait.
           CASE WHEN writers_wait OR c.relkind = 'p' THEN '' ELSE ' CONCURRENTLY' END AS how
    INTO owner_table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel;
    seen := COALESCE(', ' || quote_ident(attached.time_column), '');
    cover := format('%I%s, snapshot_asn, snapshot_country, snapshot_ip_type', attached.ip_column, seen);
    SELECT COALESCE(min(', ' || quote_ident(c.attname)), '') INTO sensor
    FROM pg_attribute c
    WHERE c.attrelid = rel AND c.attname = 'sensor' AND NOT c.attisdropped
      AND attached.ip_column <> 'sensor' AND attached.time_column <> 'sensor';
    FOR wanted IN
        SELECT w.name, w.key, w.predicate FROM (VALUES
            ('by_network', 'snapshot_asn' || seen, ''),
            ('by_country', 'snapshot_country' || seen, ''),
            ('by_ip_type', 'snapshot_ip_type' || seen, ' WHERE snapshot_ip_type IS NOT NULL'),
            ('by_time', quote_ident(attached.time_column), ''),
            -- The expression is the same as in the body of session_address(). If the index called this function, each role that
            -- inserts sessions would need the privilege EXECUTE on the function.
            ('by_address', format(CASE WHEN attached.is_inet
                THEN '(pg_catalog.host(%1$I)::%2$s.parsed_address::pg_catalog.inet)'
                ELSE '(CASE WHEN %1$I::pg_catalog.text::%2$s.parsed_address::pg_catalog.inet OPERATOR(pg_catalog.<>) ''0.0.0.0/0''::pg_catalog.inet'
                     ' THEN %1$I::pg_catalog.text::%2$s.parsed_address::pg_catalog.inet END)' END,
                attached.ip_column, '@extschema@'), '')
        ) w(name, key, predicate)
        WHERE w.key IS NOT NULL
    LOOP
        SELECT c.relname, i.indisvalid INTO present
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = rel AND strpos(c.relname::text, 'cowrie_enrich_' || wanted.name) > 0;
        CONTINUE WHEN FOUND AND present.indisvalid;
        IF FOUND THEN
            -- An earlier CREATE INDEX CONCURRENTLY has failed and left this invalid index.
            RETURN NEXT format('DROP INDEX%s %I.%I', owner_table.how, owner_table.nspname, present.relname);
        END IF;
        index_name := left(owner_table.relname::text, 36) || '_cowrie_enrich_' || wanted.name;
        IF octet_length(index_name) > 63 OR EXISTS (SELECT FROM pg_class c WHERE c.relname = index_name AND c.relnamespace = owner_table.relnamespace) THEN
            index_name := format('cowrie_enrich_%s_%s', wanted.name, rel::oid);
        END IF;
        RETURN NEXT format('CREATE INDEX%s %I ON %s (%s) INCLUDE (%s)%s',
            owner_table.how, index_name, rel, wanted.key,
            cover || CASE WHEN wanted.name = 'by_time' THEN sensor ELSE '' END, wanted.predicate);
    END LOOP;
END
$$;
COMMENT ON FUNCTION session_index_commands(regclass, boolean) IS
    'commands that create the missing indexes for analysis queries on an attached table; run each command in its own transaction, for example with \gexec of psql';

CREATE FUNCTION index_session_table(rel regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    member regclass;
    command text;
BEGIN
    FOREACH member IN ARRAY @extschema@.lock_session_table(rel, false) LOOP
        -- An inheritance child that is not attached has no snapshot columns.
        CONTINUE WHEN member <> rel AND NOT EXISTS (SELECT FROM @extschema@.attached_tables a WHERE a.rel = member);
        FOR command IN SELECT @extschema@.session_index_commands(member, true) LOOP
            EXECUTE command;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION index_session_table(regclass) IS
    'create the missing indexes for analysis queries on an attached table and its inheritance children; blocks writers; for a table without partitions, session_index_commands() returns commands that do not block writers';
