-- Building networks from the known addresses, and renewing answers past their lifetime.

CREATE PROCEDURE build_asn_inventory(
    batch_size integer DEFAULT 1000, progress boolean DEFAULT true, verbose boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'build_asn_inventory_wrapper';
COMMENT ON PROCEDURE build_asn_inventory(integer, boolean, boolean) IS
    'create and complete the networks that the enrichments in ip_inventory name; commits after each batch, repeatable';

CREATE FUNCTION is_source_stale(enrichment jsonb, asn bigint, source text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_source_stale_wrapper';
COMMENT ON FUNCTION is_source_stale(jsonb, bigint, text) IS
    'whether refresh_stale() would ask a source again about an address with this enrichment and network: its answer is past its lifetime, or of older mmdb files than those in service, or lacking where it is wanted';

CREATE PROCEDURE refresh_stale(source text DEFAULT NULL, max_ips integer DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_stale_wrapper';
COMMENT ON PROCEDURE refresh_stale(text, integer) IS
    'redo from the mmdb files, or queue at their provider, answers that are past their source''s lifetime, those of the most active addresses first';
