-- Lists of addresses. Reading a list and looking up its addresses writes nothing and sends no request to a provider. So
-- it also works on a standby.

CREATE FUNCTION read_address_list(
    addresses text[], OUT line integer, OUT input text, OUT ip_address inet, OUT error text, OUT bogon_reason text,
    OUT country text, OUT region text, OUT city text, OUT latitude float8, OUT longitude float8,
    OUT asn_number bigint, OUT organization_name text)
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'read_address_list_wrapper';
COMMENT ON FUNCTION read_address_list(text[]) IS
    'parses the lines of a list of addresses, and looks up the addresses in the mmdb files; lookup_ips() calls this function';

-- With OFFSET 0, PostgreSQL looks up each address by the key. A join would read the whole inventory for a short list.
CREATE FUNCTION lookup_ips(
    addresses text[], OUT line integer, OUT input text, OUT ip_address inet, OUT error text, OUT is_bogon boolean,
    OUT bogon_reason text, OUT ip_types text[], OUT country text, OUT region text, OUT city text, OUT latitude float8,
    OUT longitude float8, OUT asn_number bigint, OUT organization_name text, OUT asn_type text, OUT rir_registry text,
    OUT is_scanner boolean, OUT is_known boolean, OUT session_count bigint, OUT first_seen timestamptz,
    OUT last_seen timestamptz)
    RETURNS SETOF record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT l.line, l.input, l.ip_address, l.error,
               CASE WHEN l.ip_address IS NOT NULL THEN l.bogon_reason IS NOT NULL END, l.bogon_reason,
               CASE WHEN l.ip_address IS NOT NULL THEN COALESCE(i.ip_types, '{}') END,
               COALESCE(l.country, NULLIF(i.geo_country, 'XX')), l.region, l.city, l.latitude, l.longitude, a.asn_number,
               COALESCE(n.organization_name, CASE WHEN a.asn_number = l.asn_number THEN l.organization_name END),
               n.asn_type, COALESCE(n.rir_registry, @extschema@.asn_registry(a.asn_number)), i.is_scanner,
               CASE WHEN l.ip_address IS NOT NULL THEN i.ip_address IS NOT NULL END,
               CASE WHEN l.ip_address IS NOT NULL THEN COALESCE(i.session_count, 0) END, i.first_seen, i.last_seen
        FROM @extschema@.read_address_list(addresses) l
        LEFT JOIN LATERAL (
            SELECT r.ip_address, r.ip_types, r.geo_country, r.current_asn, r.is_scanner, r.session_count, r.first_seen,
                   r.last_seen
            FROM @extschema@.ip_inventory r WHERE r.ip_address = l.ip_address OFFSET 0) i ON true
        CROSS JOIN LATERAL (SELECT COALESCE(i.current_asn, l.asn_number)) a(asn_number)
        LEFT JOIN LATERAL (
            SELECT r.organization_name, r.asn_type, r.rir_registry
            FROM @extschema@.asn_inventory r WHERE r.asn_number = a.asn_number OFFSET 0) n ON true
        ORDER BY l.line
    $$;
COMMENT ON FUNCTION lookup_ips(text[]) IS
    'looks up a list of addresses in the mmdb files and the inventories; returns one row for each line of the list, in the same order; for an invalid line, the column error contains the reason; writes nothing and sends no requests; runs with the caller''s privileges';
