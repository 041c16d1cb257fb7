-- Everything that is known about one address.

CREATE FUNCTION document_time(text) RETURNS timestamptz
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'document_time_wrapper';
COMMENT ON FUNCTION document_time(text) IS
    'parses a time of an enrichment document, in ISO 8601 format; null if the text is not a time; never raises an error';

-- Runs as the extension's owner, so that a reader of profiles needs no rights on the tables of the queue.
CREATE FUNCTION address_facts(ip inet) RETURNS jsonb
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT jsonb_build_object(
            'ip_address', host(a.ip),
            'is_known', i.ip_address IS NOT NULL,
            'bogon_reason', @extschema@.bogon_reason(a.ip),
            'country', l.country, 'region', l.region, 'city', l.city, 'latitude', l.latitude, 'longitude', l.longitude,
            'ip_types', l.ip_types, 'is_scanner', l.is_scanner,
            'network', CASE WHEN l.asn_number IS NOT NULL THEN jsonb_build_object(
                'asn_number', l.asn_number, 'organization_name', l.organization_name,
                'organization_country', n.organization_country, 'asn_type', l.asn_type, 'rir_registry', l.rir_registry,
                'is_known_hosting', n.is_known_hosting, 'is_known_vpn', n.is_known_vpn,
                'as_name', n.as_name, 'allocated_on', n.allocated_on,
                'sources', CASE WHEN jsonb_typeof(n.enrichment -> 'provenance') = 'object' THEN n.enrichment -> 'provenance' END,
                'prefix', @extschema@.announced_prefix(i.enrichment), 'verified_at', i.asn_last_verified) END,
            'session_count', l.session_count, 'first_seen', l.first_seen, 'last_seen', l.last_seen,
            'types', COALESCE((
                SELECT jsonb_agg(jsonb_build_object(
                    'type', t.type, 'source', t.source, 'is_list', t.is_list, 'provider', t.provider, 'region', t.region,
                    'service', t.service, 'stated_at', t.stated_at)
                    ORDER BY t.is_list, t.source COLLATE "C", t.type COLLATE "C", t.provider COLLATE "C", t.region COLLATE "C",
                             t.service COLLATE "C")
                FROM (
                    SELECT d.type, d.source, false AS is_list, d.provider, NULL AS region, NULL AS service, d.stated_at
                    FROM @extschema@.stored_types_of(i.enrichment) d
                    UNION ALL
                    SELECT e.type, e.list, true, e.provider, e.region, e.service, e.published_at
                    FROM @extschema@.ip_type_entries(a.ip) e
                    WHERE e.is_usable) t), '[]'),
            'history', COALESCE((
                SELECT jsonb_agg(jsonb_build_object(
                    'asn_number', h.asn_number, 'organization_name', hn.organization_name,
                    'observed_at', h.observed_at, 'source', h.verification_source)
                    ORDER BY h.observed_at, h.asn_number)
                FROM @extschema@.ip_asn_history h
                LEFT JOIN @extschema@.asn_inventory hn ON hn.asn_number = h.asn_number
                WHERE h.ip_address = a.ip), '[]'),
            'sources', COALESCE((
                SELECT jsonb_object_agg(m.key, jsonb_strip_nulls(jsonb_build_object(
                    'state', m.value ->> 'state', 'asked_at', t.asked_at,
                    'age_seconds', floor(EXTRACT(epoch FROM now() - t.asked_at)),
                    'retry_after', m.value -> 'retry_after', 'error', m.value -> 'error',
                    'answer', i.enrichment -> m.key)))
                FROM jsonb_each(CASE WHEN jsonb_typeof(i.enrichment -> '_meta') = 'object' THEN i.enrichment -> '_meta' END) m
                CROSS JOIN LATERAL (SELECT @extschema@.document_time(m.value ->> 'asked_at')) t(asked_at)
                WHERE m.key <> 'import'), '{}'),
            'waiting', COALESCE((
                SELECT jsonb_agg(w.entry ORDER BY w.provider, w.requested_at, w.entry)
                FROM (
                    SELECT r.provider, r.requested_at, jsonb_build_object(
                        'provider', r.provider, 'state', 'requested', 'priority', r.priority,
                        'requested_at', r.requested_at) AS entry
                    FROM @extschema@.enrichment_request r WHERE r.ip_address = a.ip
                    UNION ALL
                    SELECT j.provider, j.requested_at, jsonb_build_object(
                        'provider', j.provider, 'lookup_key', j.lookup_key, 'priority', j.priority,
                        'state', CASE WHEN j.due_at <= now() THEN 'due' WHEN j.leased_by IS NOT NULL THEN 'leased' ELSE 'delayed' END,
                        'requested_at', j.requested_at, 'due_at', j.due_at, 'attempts', j.attempts, 'last_error', j.last_error)
                    FROM @extschema@.job_address w
                    JOIN @extschema@.enrichment_job j ON j.provider = w.provider AND j.lookup_key = w.lookup_key
                    WHERE w.ip_address = a.ip) w), '[]'),
            'dead_letters', COALESCE((
                SELECT jsonb_agg(jsonb_build_object(
                    'provider', d.provider, 'lookup_key', d.lookup_key, 'attempts', d.attempts,
                    'last_error', d.last_error, 'died_at', d.died_at) ORDER BY d.provider)
                FROM @extschema@.dead_letter d WHERE d.ip_address = a.ip), '[]'),
            'block_answers', COALESCE((
                SELECT jsonb_agg(jsonb_build_object(
                    'provider', b.provider, 'prefix', b.prefix, 'asn_number', b.asn_number,
                    'network_country', b.network_country, 'is_absent', b.is_absent, 'asked_at', b.asked_at)
                    ORDER BY b.provider, b.prefix)
                FROM @extschema@.providers() p
                CROSS JOIN generate_series(0, CASE family(a.ip) WHEN 4 THEN 32 ELSE 128 END) bits
                JOIN @extschema@.block_answer b ON b.provider = p.provider AND b.prefix = network(set_masklen(a.ip, bits))), '[]'))
        FROM (SELECT @extschema@.canonical_address(ip) AS ip WHERE @extschema@.is_bogon(ip) IS NOT NULL) a
        CROSS JOIN @extschema@.lookup_ips(ARRAY[host(a.ip)]) l
        LEFT JOIN @extschema@.ip_inventory i ON i.ip_address = a.ip
        LEFT JOIN @extschema@.asn_inventory n ON n.asn_number = l.asn_number
    $$;
COMMENT ON FUNCTION address_facts(inet) IS
    'data about an address in the mmdb files, the inventories and the queue; address_profile() returns the same data, and can add numbers of sessions';

CREATE FUNCTION address_profile(ip inet, rel regclass DEFAULT NULL, stored_time_zone text DEFAULT 'UTC') RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    profile jsonb := @extschema@.address_facts(ip);
    address_column text;
    -- The argument is cast to the type of the address column, so that its type matches the parameter exactly. Otherwise
    -- PostgreSQL could call a function of another role whose parameters match better.
    column_type text;
    days jsonb;
BEGIN
    IF rel IS NULL OR profile IS NULL THEN
        RETURN profile;
    END IF;
    SELECT a.ip_column, CASE WHEN c.atttypid = 'inet'::regtype THEN 'inet' ELSE 'text' END
    INTO address_column, column_type
    FROM @extschema@.attached_columns(rel) a
    LEFT JOIN pg_attribute c ON c.attrelid = rel AND c.attname = a.ip_column AND NOT c.attisdropped;
    -- If the table is not attached, session_timeline() raises an error.
    SELECT COALESCE(jsonb_agg(jsonb_build_object('day', (t.bucket_start AT TIME ZONE 'UTC')::date, 'sessions', t.sessions)
               ORDER BY t.bucket_start), '[]')
    INTO days
    FROM @extschema@.session_timeline(rel, '1 day',
        condition => CASE WHEN address_column IS NULL THEN 'true'
            ELSE format('@extschema@.session_address(s.%I::pg_catalog.%s) OPERATOR(pg_catalog.=) %L::pg_catalog.inet',
                        address_column, column_type, profile ->> 'ip_address') END,
        stored_time_zone => address_profile.stored_time_zone) t;
    RETURN profile || jsonb_build_object('sessions_per_day', days);
END
$$;
COMMENT ON FUNCTION address_profile(inet, regclass, text) IS
    'all data about an address, as one JSON object: location, current and earlier networks, answers of sources, waiting and failed lookups; if the argument "rel" names a session table, also the number of sessions on each day (UTC); reads the session table with the caller''s privileges';
