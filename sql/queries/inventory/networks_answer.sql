-- Stores the answers to lookups of networks. The caller has locked the rows of the networks. The country and the
-- registry in such an answer describe the network itself. So they replace earlier values of the same source, because an
-- earlier value may describe only a prefix. If an earlier value is equal but has a source of lower rank, only the
-- stored source changes. The name of the organisation is set only if the stored name is null or source $8 may replace
-- it. No other source provides the name of the network and the date of the network's allocation. Returns each network
-- with a changed value, and whether the network existed before this transaction.
-- $1 bigint[]: ASN of each network
-- $2 text[]: name of the organisation of each network
-- $3 text[]: country of each network
-- $4 text[]: registry of each network
-- $5 text[]: name of each network, as the provider writes it
-- $6 text[]: date when each network was allocated
-- $7 jsonb[]: state of the lookup of each network
-- $8 text: source of the answers
WITH given AS (
    SELECT g.asn, g.name, g.country, g.registry, g.as_name, g.allocated::date AS allocated_on, g.document
    FROM unnest($1, $2, $3, $4, $5, $6, $7) AS g(asn, name, country, registry, as_name, allocated, document)
), known AS (
    SELECT g.*, a.organization_name, a.organization_country, a.rir_registry, a.enrichment,
           a.enrichment #>> '{provenance,organization_country}' AS country_source,
           a.enrichment #>> '{provenance,rir_registry}' AS registry_source
    FROM given g
    JOIN @extschema@.asn_inventory a ON a.asn_number = g.asn
), better AS (
    SELECT k.asn, k.document,
           CASE WHEN k.name IS DISTINCT FROM k.organization_name
                 AND @extschema@.may_replace(k.organization_name, k.enrichment, 'organization_name', $8)
                THEN k.name END AS name,
           CASE WHEN (k.country, $8) IS DISTINCT FROM (k.organization_country, k.country_source)
                 AND (k.organization_country IS NULL
                      OR @extschema@.source_rank($8) >= @extschema@.source_rank(k.country_source))
                THEN k.country END AS country,
           CASE WHEN (k.registry, $8) IS DISTINCT FROM (k.rir_registry, k.registry_source)
                 AND (k.rir_registry IS NULL
                      OR @extschema@.source_rank($8) >= @extschema@.source_rank(k.registry_source))
                THEN k.registry END AS registry,
           k.as_name, k.allocated_on
    FROM known k
), wanted AS MATERIALIZED (
    SELECT b.*, a.organization_name IS DISTINCT FROM COALESCE(b.name, a.organization_name)
             OR b.country IS NOT NULL OR b.registry IS NOT NULL
             OR a.as_name IS DISTINCT FROM COALESCE(b.as_name, a.as_name)
             OR a.allocated_on IS DISTINCT FROM COALESCE(b.allocated_on, a.allocated_on) AS is_changed
    FROM better b
    JOIN @extschema@.asn_inventory a ON a.asn_number = b.asn
), written AS (
    UPDATE @extschema@.asn_inventory a
    SET organization_name = COALESCE(w.name, a.organization_name),
        organization_country = COALESCE(w.country, a.organization_country),
        rir_registry = COALESCE(w.registry, a.rir_registry),
        as_name = COALESCE(w.as_name, a.as_name),
        allocated_on = COALESCE(w.allocated_on, a.allocated_on),
        (asn_type, is_known_hosting, is_known_vpn) = (
            SELECT c.asn_type, c.is_known_hosting, c.is_known_vpn
            FROM @extschema@.classify_network(a.asn_number, w.name, a.is_known_hosting, a.is_known_vpn) c
            WHERE w.name IS NOT NULL
            UNION ALL
            SELECT a.asn_type, a.is_known_hosting, a.is_known_vpn WHERE w.name IS NULL),
        enrichment = a.enrichment || jsonb_build_object(
            'provenance', COALESCE(a.enrichment -> 'provenance', '{}') || jsonb_strip_nulls(jsonb_build_object(
                'organization_name', CASE WHEN w.name IS NOT NULL THEN $8 END,
                'organization_country', CASE WHEN w.country IS NOT NULL THEN $8 END,
                'rir_registry', CASE WHEN w.registry IS NOT NULL THEN $8 END,
                'as_name', CASE WHEN w.as_name IS NOT NULL THEN $8 END,
                'allocated_on', CASE WHEN w.allocated_on IS NOT NULL THEN $8 END)),
            '_meta', COALESCE(a.enrichment -> '_meta', '{}') || COALESCE(w.document -> '_meta', '{}')),
        enrichment_updated_at = CASE WHEN w.is_changed THEN now() ELSE a.enrichment_updated_at END,
        lookup_queued_at = COALESCE(a.lookup_queued_at, now()),
        updated_at = now()
    FROM wanted w
    WHERE a.asn_number = w.asn
    RETURNING a.asn_number, a.organization_country, a.rir_registry, a.organization_name, a.created_at <> now() AS was_there,
              w.is_changed
)
SELECT w.asn_number, w.organization_country, w.rir_registry, w.organization_name, w.was_there
FROM written w
WHERE w.is_changed
