-- Functions about prefixes: the sessions of each announced prefix, and the sizes of prefixes for blocklists. The
-- functions read the caller's session table through campaign_addresses(), with the rights of the caller. They can set
-- search_path, because they evaluate no condition of the caller.

CREATE FUNCTION announced_prefix(enrichment jsonb) RETURNS cidr
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'announced_prefix_wrapper';
COMMENT ON FUNCTION announced_prefix(jsonb) IS
    'announced prefix in Team Cymru''s answer in an enrichment document (a value of ip_inventory.enrichment). Null if no prefix is announced. Null for a prefix shorter than /8 (IPv4) or /16 (IPv6). Never raises an error';

CREATE FUNCTION contains_bogon(prefix cidr) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'contains_bogon_wrapper';
COMMENT ON FUNCTION contains_bogon(cidr) IS 'true if the prefix contains at least one bogon';

-- Known prefixes come from answers about single addresses and from answers about blocks. If an address has no answer,
-- the function uses the longest known prefix that contains the address.
CREATE FUNCTION session_prefixes(
    rel regclass, since timestamptz DEFAULT NULL, stored_time_zone text DEFAULT 'UTC',
    OUT ip_address inet, OUT prefix cidr, OUT is_announced boolean,
    OUT asn_number bigint, OUT sessions bigint, OUT first_seen timestamptz, OUT last_seen timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
        WITH seen AS MATERIALIZED (
            SELECT a.ip_address, a.sessions, a.first_seen, a.last_seen, a.asn_now AS asn_number,
                   @extschema@.announced_prefix(i.enrichment) AS prefix
            FROM @extschema@.campaign_addresses(rel, 'true'::text, stored_time_zone, since) a
            LEFT JOIN @extschema@.ip_inventory i ON i.ip_address = a.ip_address
        ), known AS MATERIALIZED (
            SELECT s.prefix FROM seen s WHERE s.prefix IS NOT NULL
            UNION
            SELECT @extschema@.announced_prefix(b.document) FROM @extschema@.block_answer b
            WHERE @extschema@.announced_prefix(b.document) IS NOT NULL
        ), length AS MATERIALIZED (
            SELECT DISTINCT family(k.prefix) AS family, masklen(k.prefix) AS bits FROM known k
        ), longest AS MATERIALIZED (
            SELECT s.ip_address, max(masklen(k.prefix)) AS bits
            FROM seen s
            JOIN length l ON l.family = family(s.ip_address)
            JOIN known k ON k.prefix = network(set_masklen(s.ip_address, l.bits))
            GROUP BY 1
        )
        SELECT s.ip_address,
               network(set_masklen(s.ip_address, COALESCE(l.bits, CASE family(s.ip_address) WHEN 4 THEN 24 ELSE 48 END))),
               l.bits IS NOT NULL, s.asn_number, s.sessions, s.first_seen, s.last_seen
        FROM seen s
        LEFT JOIN longest l ON l.ip_address = s.ip_address
    $$;
COMMENT ON FUNCTION session_prefixes(regclass, timestamptz, text) IS
    'addresses of the sessions of an attached table, one row for each address. The column "prefix" is the announced prefix that contains the address, or the /24 or /48 prefix if no announced prefix is known. Used by prefix_activity() and blocklist(). Runs with the caller''s privileges';

-- A float8 holds the size of every prefix exactly, because each size is a power of two.
CREATE FUNCTION prefix_size(prefix cidr) RETURNS float8
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.power(2::pg_catalog.float8, GREATEST(0,
        CASE pg_catalog.family(prefix) WHEN 4 THEN 32 ELSE 64 END OPERATOR(pg_catalog.-) pg_catalog.masklen(prefix))::pg_catalog.float8);
COMMENT ON FUNCTION prefix_size(cidr) IS
    'size of a prefix: number of addresses of an IPv4 prefix, number of /64 prefixes in an IPv6 prefix, at least 1';

CREATE FUNCTION prefix_activity(
    rel regclass, since timestamptz DEFAULT NULL, stored_time_zone text DEFAULT 'UTC',
    OUT prefix cidr, OUT is_announced boolean, OUT asn_number bigint, OUT organization_name text,
    OUT sessions bigint, OUT addresses bigint, OUT density float8,
    OUT first_seen timestamptz, OUT last_seen timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT p.prefix, p.is_announced, p.asn_number, n.organization_name, p.sessions, p.addresses, p.density,
               p.first_seen, p.last_seen
        FROM (
            SELECT s.prefix, s.is_announced, mode() WITHIN GROUP (ORDER BY s.asn_number) AS asn_number,
                   sum(s.sessions)::bigint AS sessions, count(*) AS addresses,
                   count(DISTINCT network(set_masklen(s.ip_address, CASE family(s.ip_address) WHEN 4 THEN 32 ELSE 64 END)))
                       / @extschema@.prefix_size(s.prefix) AS density,
                   min(s.first_seen) AS first_seen, max(s.last_seen) AS last_seen
            FROM @extschema@.session_prefixes(rel, since, stored_time_zone) s
            GROUP BY s.prefix, s.is_announced) p
        LEFT JOIN @extschema@.asn_inventory n ON n.asn_number = p.asn_number
        ORDER BY p.sessions DESC, p.prefix
    $$;
COMMENT ON FUNCTION prefix_activity(regclass, timestamptz, text) IS
    'prefixes of the addresses in the sessions of an attached table, in descending order of the number of sessions. Each prefix is the announced prefix if Team Cymru named it, otherwise the /24 or /48. The column "density" is the number of addresses with sessions (for IPv6, of /64 prefixes), divided by prefix_size(). Runs with the caller''s privileges';
