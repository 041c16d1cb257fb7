-- Networks from the addresses that are known, and answers that are past their lifetime.

CREATE PROCEDURE build_asn_inventory(
    batch_size integer DEFAULT 1000, progress boolean DEFAULT true, verbose boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'build_asn_inventory_wrapper';
COMMENT ON PROCEDURE build_asn_inventory(integer, boolean, boolean) IS
    'create and complete the networks that the enrichments in ip_inventory name; commits after each batch, repeatable';

CREATE PROCEDURE refresh_stale(source text DEFAULT NULL, max_ips integer DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'refresh_stale_wrapper';
COMMENT ON PROCEDURE refresh_stale(text, integer) IS
    'redo from the mmdb files, or queue at their provider, answers that are past their source''s lifetime, those of the most active addresses first';
