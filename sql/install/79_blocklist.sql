-- Lists of addresses, prefixes or networks that firewalls block.

CREATE TABLE blocklist_exception (
    prefix     cidr UNIQUE CONSTRAINT blocklist_exception_mapped_check
               CHECK (family(prefix) = 4 OR NOT prefix <<= '::ffff:0:0/96'),
    asn_number bigint UNIQUE CHECK (asn_number BETWEEN 1 AND 4294967295),
    note       text,
    added_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blocklist_exception_target_check CHECK (num_nonnulls(prefix, asn_number) = 1)
);
-- In each row, either the prefix or the network is null, so the table cannot have a primary key. Without a replica
-- identity, the server would refuse deletes if the table is in a publication FOR ALL TABLES.
ALTER TABLE blocklist_exception REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('blocklist_exception', '');
COMMENT ON TABLE blocklist_exception IS
    'prefixes and networks that blocklist() never returns, for example your own networks and the addresses of your monitoring; you can edit the table';
COMMENT ON COLUMN blocklist_exception.prefix IS
    'a prefix, or a single address; null if the row is about a network';
COMMENT ON COLUMN blocklist_exception.asn_number IS
    'ASN of a network; blocklist() returns no address of this network; null if the row is about a prefix';
COMMENT ON COLUMN blocklist_exception.note IS 'reason for the exception; the extension does not use this text';

-- Compares the values of the document as text. A client may have written any values into the document, and a comparison
-- as text never fails.
CREATE FUNCTION is_benign_of(enrichment jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN COALESCE(
        enrichment OPERATOR(pg_catalog.->) 'greynoise' OPERATOR(pg_catalog.->>) 'riot' OPERATOR(pg_catalog.=) 'true'
        OR enrichment OPERATOR(pg_catalog.->) 'greynoise' OPERATOR(pg_catalog.->>) 'classification' OPERATOR(pg_catalog.=) 'benign',
        false);
COMMENT ON FUNCTION is_benign_of(jsonb) IS
    'true if GreyNoise''s answer says that the address belongs to a common service (riot) or to a benign scanner; the argument is a value of ip_inventory.enrichment';

-- The following functions decide what a blocklist may contain. An address must not be blocked if it is a bogon, a benign
-- scanner, a common service, in a prefix of blocklist_exception, or in a network of blocklist_exception. An address is in
-- a network if the inventory or the mmdb files say so. A prefix or network must not be blocked if it contains such an
-- address. If sources disagree, the functions choose the answer that blocks less.

CREATE FUNCTION networks_within(prefix cidr) RETURNS bigint[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'networks_within_wrapper';
COMMENT ON FUNCTION networks_within(cidr) IS
    'ASNs of all networks that have addresses in a prefix according to the mmdb files of the setting asn_database';

CREATE FUNCTION networks_of_benign_scanners() RETURNS bigint[]
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'networks_of_benign_scanners_wrapper';
COMMENT ON FUNCTION networks_of_benign_scanners() IS
    'ASNs of all networks in which a list in the mmdb files of the setting ip_type_databases names a known research scanner (SCANNER_BENIGN); lists older than ip_type_max_age are ignored';

CREATE FUNCTION network_prefixes(asns bigint[], OUT asn_number bigint, OUT prefix cidr) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT p.asn_number, p.prefix
        FROM (
            SELECT i.current_asn, @extschema@.announced_prefix(i.enrichment)
            FROM @extschema@.ip_inventory i WHERE i.current_asn = ANY ($1)
            UNION
            SELECT b.asn_number, COALESCE(@extschema@.announced_prefix(b.document), b.prefix)
            FROM @extschema@.block_answer b WHERE b.asn_number = ANY ($1)) p(asn_number, prefix)
        WHERE p.prefix IS NOT NULL
    $$;
COMMENT ON FUNCTION network_prefixes(bigint[]) IS
    'prefixes that networks announce, as far as answers of providers name them';

CREATE FUNCTION blockable_addresses(addresses inet[], OUT ip_address inet, OUT asn_number bigint) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
        WITH excepted AS MATERIALIZED (
            SELECT e.asn_number FROM @extschema@.blocklist_exception e WHERE e.asn_number IS NOT NULL
        ), announced AS MATERIALIZED (
            SELECT DISTINCT p.prefix FROM @extschema@.network_prefixes(ARRAY(SELECT e.asn_number FROM excepted e)) p
        )
        SELECT a.ip_address, COALESCE(i.current_asn, n.asn_of_files)
        FROM unnest($1) a(ip_address)
        LEFT JOIN @extschema@.ip_inventory i ON i.ip_address = a.ip_address
        -- OFFSET 0 keeps the planner from looking up the network twice.
        CROSS JOIN LATERAL (
            SELECT CASE WHEN i.current_asn IS NULL OR EXISTS (SELECT FROM excepted)
                THEN @extschema@.ip_asn(a.ip_address) END AS asn_of_files OFFSET 0) n
        WHERE NOT @extschema@.is_bogon(a.ip_address) AND NOT @extschema@.is_benign_of(i.enrichment)
          AND NOT @extschema@.contains_benign_scanner(network(a.ip_address))
          AND NOT EXISTS (SELECT FROM @extschema@.blocklist_exception e WHERE e.prefix >>= a.ip_address)
          AND NOT EXISTS (SELECT FROM excepted e WHERE e.asn_number = i.current_asn)
          AND NOT EXISTS (SELECT FROM excepted e WHERE e.asn_number = n.asn_of_files)
          -- If the network of an address is unknown, the address belongs to the network that announces its prefix.
          AND (COALESCE(i.current_asn, n.asn_of_files) IS NOT NULL
               OR NOT EXISTS (SELECT FROM announced p WHERE p.prefix >>= a.ip_address))
    $$;
COMMENT ON FUNCTION blockable_addresses(inet[]) IS
    'those of the given addresses that a blocklist may contain, with the ASN of their current network. Leaves out bogons, benign scanners, common services, and the prefixes and networks of blocklist_exception. Used by blocklist(). Runs with the caller''s privileges';

CREATE FUNCTION prefixes_with_exceptions(prefixes cidr[], announced cidr[], OUT prefix cidr) RETURNS SETOF cidr
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS $$
        WITH excepted AS MATERIALIZED (
            SELECT e.asn_number FROM @extschema@.blocklist_exception e WHERE e.asn_number IS NOT NULL
        ), of_excepted AS MATERIALIZED (
            SELECT DISTINCT p.prefix FROM @extschema@.network_prefixes(ARRAY(SELECT e.asn_number FROM excepted e)) p
        )
        SELECT p.prefix
        FROM unnest($1) p(prefix)
        WHERE @extschema@.contains_bogon(p.prefix) OR @extschema@.contains_benign_scanner(p.prefix)
           OR EXISTS (SELECT FROM @extschema@.blocklist_exception e WHERE e.prefix && p.prefix)
           -- If another network announces the prefix itself, the prefix does not belong to the network around it.
           OR EXISTS (
               SELECT FROM of_excepted o
               WHERE o.prefix <<= p.prefix OR o.prefix >> p.prefix AND p.prefix <> ALL ($2))
           OR EXISTS (SELECT FROM excepted e WHERE e.asn_number = ANY (@extschema@.networks_within(p.prefix)))
           -- Also finds addresses that had no session in the period.
           OR EXISTS (
               SELECT FROM @extschema@.ip_inventory i
               WHERE i.ip_address >= p.prefix::inet
                 AND i.ip_address <= set_masklen(broadcast(p.prefix), CASE family(p.prefix) WHEN 4 THEN 32 ELSE 128 END)
                 AND (@extschema@.is_benign_of(i.enrichment)
                      OR EXISTS (SELECT FROM excepted e WHERE e.asn_number = i.current_asn)))
    $$;
COMMENT ON FUNCTION prefixes_with_exceptions(cidr[], cidr[]) IS
    'those of the given prefixes that contain an address that must not be blocked. The second argument names the prefixes that are known to be announced. Used by blocklist(). Runs with the caller''s privileges';

CREATE FUNCTION networks_with_exceptions(asns bigint[], OUT asn_number bigint) RETURNS SETOF bigint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS $$
        WITH excepted AS MATERIALIZED (
            SELECT e.asn_number FROM @extschema@.blocklist_exception e WHERE e.asn_number IS NOT NULL
        ), known AS MATERIALIZED (
            SELECT p.asn_number, p.prefix FROM @extschema@.network_prefixes($1) p
        )
        SELECT k.asn_number
        FROM known k
        JOIN @extschema@.prefixes_with_exceptions(
            ARRAY(SELECT DISTINCT k.prefix FROM known k), ARRAY(SELECT DISTINCT k.prefix FROM known k)) p ON p.prefix = k.prefix
        UNION
        -- Addresses in the inventory.
        SELECT i.current_asn
        FROM @extschema@.ip_inventory i
        WHERE i.current_asn = ANY ($1)
          AND (@extschema@.is_bogon(i.ip_address) OR @extschema@.is_benign_of(i.enrichment)
               OR @extschema@.contains_benign_scanner(network(i.ip_address))
               OR EXISTS (SELECT FROM @extschema@.blocklist_exception e WHERE e.prefix >>= i.ip_address)
               OR EXISTS (SELECT FROM excepted) AND EXISTS (
                   SELECT FROM excepted e WHERE e.asn_number = @extschema@.ip_asn(i.ip_address)))
        UNION
        -- Networks according to the mmdb files. The inventory need not have the address, or can have another network.
        SELECT a.asn_number
        FROM (
            SELECT unnest(@extschema@.networks_within(e.prefix))
            FROM @extschema@.blocklist_exception e WHERE e.prefix IS NOT NULL
            UNION ALL
            SELECT unnest(@extschema@.networks_of_benign_scanners())
            UNION ALL
            SELECT @extschema@.ip_asn(i.ip_address)
            FROM @extschema@.ip_inventory i
            WHERE @extschema@.is_benign_of(i.enrichment) OR EXISTS (SELECT FROM excepted e WHERE e.asn_number = i.current_asn)
            ) a(asn_number)
        WHERE cardinality($1) > 0 AND a.asn_number = ANY ($1)
    $$;
COMMENT ON FUNCTION networks_with_exceptions(bigint[]) IS
    'those of the given networks that contain an address that must not be blocked, according to the inventory, answers of providers or the mmdb files. Used by blocklist(). Runs with the caller''s privileges';

CREATE FUNCTION blocklist(
    rel regclass, since timestamptz, min_sessions integer DEFAULT 1, unit text DEFAULT 'address',
    min_density float8 DEFAULT 0.25, lifetime interval DEFAULT '30 days', stored_time_zone text DEFAULT 'UTC',
    OUT target text, OUT family integer, OUT target_unit text, OUT sessions bigint, OUT addresses bigint, OUT reason text,
    OUT first_seen timestamptz, OUT last_seen timestamptz, OUT expires_at timestamptz)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF blocklist.unit IS NULL OR blocklist.unit NOT IN ('address', 'prefix', 'asn') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'invalid unit',
            DETAIL = format('The value is %s.', COALESCE(quote_ident(blocklist.unit), 'null')),
            HINT = 'Use one of address, prefix, asn.';
    END IF;
    IF COALESCE(min_sessions < 1, true) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'min_sessions must be at least 1',
            DETAIL = format('The value is %s.', COALESCE(min_sessions::text, 'null'));
    END IF;
    -- With 0, one session would put a whole provider on the list. PostgreSQL sorts NaN above all numbers.
    IF COALESCE(min_density <= 0 OR min_density > 1, true) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'min_density must be greater than 0, and at most 1',
            DETAIL = format('The value is %s.', COALESCE(min_density::text, 'null')),
            HINT = 'With 0.25, a prefix is listed if sessions came from a quarter of its addresses. With 0.01, a /24 prefix is listed if sessions came from 3 addresses.';
    END IF;
    IF COALESCE(lifetime < '0', true) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'lifetime must not be negative',
            DETAIL = format('The value is %s.', COALESCE(lifetime::text, 'null'));
    END IF;
    -- A longer time would end after the last date that PostgreSQL has.
    IF lifetime > '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'lifetime must be at most 1000 years',
            DETAIL = format('The value is %s.', lifetime),
            HINT = 'With 30 days, a row expires 30 days after the last session.';
    END IF;
    RETURN QUERY
    WITH seen AS MATERIALIZED (
        SELECT a.ip_address, NULL::cidr AS prefix, false AS is_announced, a.sessions, a.first_seen, a.last_seen
        FROM @extschema@.campaign_addresses(rel, 'true'::text, stored_time_zone, since) a
        WHERE blocklist.unit = 'address'
        UNION ALL
        SELECT p.ip_address, p.prefix, p.is_announced, p.sessions, p.first_seen, p.last_seen
        FROM @extschema@.session_prefixes(rel, since, stored_time_zone) p
        WHERE blocklist.unit <> 'address'
    ), kept AS MATERIALIZED (
        SELECT s.ip_address, s.prefix, s.is_announced, b.asn_number, s.sessions, s.first_seen, s.last_seen,
               network(set_masklen(s.ip_address, CASE family(s.ip_address) WHEN 4 THEN 32 ELSE 64 END)) AS place
        FROM seen s
        JOIN @extschema@.blockable_addresses(ARRAY(SELECT ip_address FROM seen)) b ON b.ip_address = s.ip_address
    ), dense AS MATERIALIZED (
        -- The result has one row for each prefix, or one row for each network and address family.
        SELECT c.family, c.prefix, c.asn_number, c.places, c.size, c.prefixes, c.announced, c.sessions, c.addresses,
               c.first_seen, c.last_seen
        FROM (
            SELECT family(k.ip_address) AS family,
                   CASE blocklist.unit WHEN 'prefix' THEN k.prefix END AS prefix,
                   CASE blocklist.unit WHEN 'asn' THEN k.asn_number END AS asn_number,
                   count(DISTINCT k.place) AS places, array_agg(DISTINCT k.prefix) AS prefixes,
                   array_agg(DISTINCT k.prefix) FILTER (WHERE k.is_announced) AS announced,
                   (SELECT sum(@extschema@.prefix_size(u.prefix)) FROM unnest(array_agg(DISTINCT k.prefix)) u(prefix)) AS size,
                   sum(k.sessions)::bigint AS sessions, count(*) AS addresses,
                   min(k.first_seen) AS first_seen, max(k.last_seen) AS last_seen
            FROM kept k
            WHERE blocklist.unit <> 'address'
            GROUP BY 1, 2, 3) c
        WHERE c.sessions >= min_sessions AND c.places >= min_density * c.size
          AND (c.prefix IS NOT NULL OR c.asn_number IS NOT NULL)
    ), refused_prefix AS MATERIALIZED (
        SELECT r.prefix
        FROM @extschema@.prefixes_with_exceptions(
            ARRAY(SELECT DISTINCT u.prefix FROM dense d CROSS JOIN unnest(d.prefixes) u(prefix)),
            ARRAY(SELECT DISTINCT u.prefix FROM dense d CROSS JOIN unnest(d.announced) u(prefix))) r
    ), refused_network AS MATERIALIZED (
        SELECT n.asn_number
        FROM @extschema@.networks_with_exceptions(ARRAY(SELECT DISTINCT d.asn_number FROM dense d WHERE d.asn_number IS NOT NULL)) n
        UNION
        -- A firewall that blocks a network blocks the prefixes of both families.
        SELECT d.asn_number FROM dense d JOIN refused_prefix r ON r.prefix = ANY (d.prefixes) WHERE d.asn_number IS NOT NULL
    ), covering AS MATERIALIZED (
        SELECT d.family, d.prefix, d.asn_number, d.places, d.size, d.sessions, d.addresses, d.first_seen, d.last_seen
        FROM dense d
        WHERE NOT EXISTS (SELECT FROM refused_prefix r WHERE r.prefix = d.prefix)
          AND NOT EXISTS (SELECT FROM refused_network r WHERE r.asn_number = d.asn_number)
    ), listed AS (
        SELECT host(k.ip_address) AS target, family(k.ip_address) AS family, 'address' AS target_unit,
               k.ip_address AS place, NULL::bigint AS asn_number, k.sessions, 1::bigint AS addresses, '' AS density,
               k.first_seen, k.last_seen
        FROM kept k
        WHERE k.sessions >= min_sessions
          AND NOT EXISTS (SELECT FROM covering c WHERE c.prefix = k.prefix)
          AND NOT EXISTS (SELECT FROM covering c WHERE c.asn_number = k.asn_number AND c.family = family(k.ip_address))
        UNION ALL
        SELECT COALESCE(c.prefix::text, 'AS' || c.asn_number), c.family, blocklist.unit, c.prefix::inet, c.asn_number,
               c.sessions, c.addresses,
               format(' from %s of %s %s (%s %%)', c.places, c.size::numeric,
                   CASE c.family WHEN 4 THEN 'addresses' ELSE '/64 prefixes' END, round((100 * c.places / c.size)::numeric, 1)),
               c.first_seen, c.last_seen
        FROM covering c
    )
    SELECT l.target, l.family, l.target_unit, l.sessions, l.addresses,
           format('%s session%s%s%s', l.sessions, CASE WHEN l.sessions = 1 THEN '' ELSE 's' END, l.density,
               ', last on ' || to_char(l.last_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD')),
           l.first_seen, l.last_seen,
           -- Adds the interval in UTC, so that the result does not depend on the time zone of the connection.
           (l.last_seen AT TIME ZONE 'UTC' + lifetime) AT TIME ZONE 'UTC'
    FROM listed l
    ORDER BY l.family, l.place, l.asn_number;
END
$$;
COMMENT ON FUNCTION blocklist(regclass, timestamptz, integer, text, float8, interval, text) IS
    'list for a firewall: addresses from which sessions of an attached table came since a time. With unit => ''prefix'', a prefix replaces its addresses if sessions came from a large part of the prefix. With unit => ''asn'', a network replaces its addresses in the same way. No row covers a bogon, a benign scanner, a common service or a target of blocklist_exception. A prefix or network that would cover such an address is replaced by its addresses. Runs with the caller''s privileges';
