-- Numbers for operators.

CREATE FUNCTION enrich_stats(
    OUT total_ips bigint, OUT cache_hits bigint, OUT maxmind_hits bigint, OUT cymru_hits bigint,
    OUT greynoise_hits bigint, OUT dshield_hits bigint, OUT spur_hits bigint, OUT errors bigint,
    OUT asn_records_created bigint, OUT asn_records_updated bigint,
    OUT asn_operation_duration_ms double precision, OUT asn_unique_seen bigint)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'enrich_stats_wrapper';
COMMENT ON FUNCTION enrich_stats() IS
    'counters of committed work since PostgreSQL started or the counters were reset; the counters cover the whole cluster if shared_preload_libraries contains cowrie_enrich, otherwise only the current database session';

CREATE FUNCTION reset_enrich_stats() RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reset_enrich_stats_wrapper';
COMMENT ON FUNCTION reset_enrich_stats() IS
    'reset the counters and histograms of enrich_stats(), enrich_metrics and provider_status; the reset covers the whole cluster if shared_preload_libraries contains cowrie_enrich, otherwise only the current database session';

CREATE FUNCTION asn_inventory_size(
    OUT total_asns bigint, OUT asns_with_metadata bigint, OUT asns_by_registry jsonb)
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT sum(r.asns)::bigint, sum(r.with_metadata)::bigint,
               COALESCE(jsonb_object_agg(r.registry, r.asns) FILTER (WHERE r.registry IS NOT NULL), '{}')
        FROM (
            SELECT COALESCE(a.rir_registry, 'UNKNOWN') AS registry, count(*) AS asns,
                   count(*) FILTER (WHERE a.organization_name IS NOT NULL) AS with_metadata
            FROM @extschema@.asn_inventory a GROUP BY 1
            UNION ALL SELECT NULL, 0, 0) r
    $$;
COMMENT ON FUNCTION asn_inventory_size() IS
    'numbers of networks in asn_inventory: all networks, networks with the name of an organisation, and networks by regional internet registry';
