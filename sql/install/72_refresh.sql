-- Building networks from the known addresses, and renewing answers past their lifetime.

CREATE PROCEDURE build_asn_inventory(
    batch_size integer DEFAULT 1000, progress boolean DEFAULT true, verbose boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'build_asn_inventory_wrapper';
COMMENT ON PROCEDURE build_asn_inventory(integer, boolean, boolean) IS
    'create the networks that values of ip_inventory.enrichment name, and fill missing metadata of existing networks, in asn_inventory; commits after each batch; can be repeated';

CREATE FUNCTION is_source_stale(enrichment jsonb, asn bigint, source text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_source_stale_wrapper';
COMMENT ON FUNCTION is_source_stale(jsonb, bigint, text) IS
    'true if refresh_stale() would look up an address at a source again: if the enrichment document contains no answer of the source, if the answer has expired, or if the answer comes from mmdb files other than the loaded ones';

CREATE PROCEDURE refresh_stale(source text DEFAULT NULL, max_ips integer DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_stale_wrapper';
COMMENT ON PROCEDURE refresh_stale(text, integer) IS
    'renew expired answers, for the most active addresses first: reads the mmdb files during the call, and queues lookups at providers for the worker';
