-- Procedures that create the networks of known addresses, and that renew stale answers. An answer is stale if it has
-- expired or is missing.

CREATE PROCEDURE build_asn_inventory(
    batch_size integer DEFAULT 1000, progress boolean DEFAULT true, verbose boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'build_asn_inventory_wrapper';
COMMENT ON PROCEDURE build_asn_inventory(integer, boolean, boolean) IS
    'create rows in asn_inventory for the networks in ip_inventory.enrichment, and fill missing metadata of existing rows; commits after each batch; the call can be repeated';

-- A network can have several kinds. The function returns the kind whose answers have the shortest lifetime, so the
-- order of the conditions matters.
CREATE FUNCTION network_kind(asn_type text, is_datacenter boolean, is_vpn boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN $3 THEN 'vpn' WHEN $2 OR $1 = 'HOSTING' THEN 'hosting' WHEN $1 = 'ISP' THEN 'isp' END
    $$;
COMMENT ON FUNCTION network_kind(text, boolean, boolean) IS
    'kind of a network, from columns of asn_inventory: ''vpn'', ''hosting'', ''isp'', or null; for each kind, the setting ttl_vpn_percent, ttl_hosting_percent or ttl_isp_percent determines the lifetime of answers';

CREATE FUNCTION answer_lifetime(seconds integer, kind text) RETURNS integer
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'answer_lifetime_wrapper';
COMMENT ON FUNCTION answer_lifetime(integer, text) IS
    'converts the normal lifetime of an answer, in seconds, to the lifetime for a kind of network; the argument "kind" is a result of network_kind(); settings such as ttl_isp_percent contain the percentage';

CREATE FUNCTION network_lifetime(seconds integer, asn bigint) RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT @extschema@.answer_lifetime($1, (
            SELECT @extschema@.network_kind(a.asn_type, a.is_known_hosting, a.is_known_vpn)
            FROM @extschema@.asn_inventory a
            WHERE a.asn_number = $2))
    $$;
COMMENT ON FUNCTION network_lifetime(integer, bigint) IS
    'converts the normal lifetime of an answer, in seconds, to the lifetime for a network; asn_inventory determines the kind of the network; see answer_lifetime()';

CREATE FUNCTION is_source_stale(enrichment jsonb, asn bigint, source text, kind text DEFAULT NULL) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_source_stale_wrapper';
COMMENT ON FUNCTION is_source_stale(jsonb, bigint, text, text) IS
    'true if refresh_stale() would look up an address at a source again; this is so if the enrichment document has no answer of the source, an expired answer, or an answer from other mmdb files than the loaded ones; the argument "kind" is the result of network_kind() for the network of the address';

CREATE PROCEDURE refresh_stale(source text DEFAULT NULL, max_ips integer DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_stale_wrapper';
COMMENT ON PROCEDURE refresh_stale(text, integer) IS
    'renew expired answers, for the most active addresses first: reads the mmdb files during the call, and queues lookups at providers for the worker';
