-- Completes the metadata of existing networks. Each value has its own source, which is also an argument. A field is set
-- if it is null or if the stored value has a source of lower rank. This statement does not replace a value by a value
-- from the same source. The values are compared again after the rows are locked, because another transaction may have
-- written a better value meanwhile. Returns the networks that changed.
-- $1 bigint[]: ASN of each network
-- $2 text[]: name of the organisation of each network
-- $3 text[]: source of each name
-- $4 text[]: country of each network
-- $5 text[]: source of each country
-- $6 text[]: registry of each network
-- $7 text[]: source of each registry
WITH given AS (
    SELECT g.asn, g.name, g.name_source, g.country, g.country_source, g.registry, g.registry_source
    FROM unnest($1, $2, $3, $4, $5, $6, $7)
        AS g(asn, name, name_source, country, country_source, registry, registry_source)
), better AS (
    -- Most given values are equal to the stored values, or have the same source. Ranks are compared only for the other
    -- values.
    SELECT a.asn_number,
           CASE WHEN g.name IS DISTINCT FROM a.organization_name
                 AND (a.organization_name IS NULL OR g.name_source IS DISTINCT FROM a.enrichment #>> '{provenance,organization_name}')
                 AND @extschema@.may_replace(a.organization_name, a.enrichment, 'organization_name', g.name_source)
                THEN g.name END AS name, g.name_source,
           CASE WHEN g.country IS DISTINCT FROM a.organization_country
                 AND (a.organization_country IS NULL OR g.country_source IS DISTINCT FROM a.enrichment #>> '{provenance,organization_country}')
                 AND @extschema@.may_replace(a.organization_country, a.enrichment, 'organization_country', g.country_source)
                THEN g.country END AS country, g.country_source,
           CASE WHEN g.registry IS DISTINCT FROM a.rir_registry
                 AND (a.rir_registry IS NULL OR g.registry_source IS DISTINCT FROM a.enrichment #>> '{provenance,rir_registry}')
                 AND @extschema@.may_replace(a.rir_registry, a.enrichment, 'rir_registry', g.registry_source)
                THEN g.registry END AS registry, g.registry_source
    FROM @extschema@.asn_inventory a
    JOIN given g ON g.asn = a.asn_number
    WHERE a.asn_number = ANY ($1)
), wanted AS MATERIALIZED (
    SELECT b.* FROM better b
    WHERE b.name IS NOT NULL OR b.country IS NOT NULL OR b.registry IS NOT NULL
), locked AS (
    SELECT a.asn_number, a.organization_name, a.organization_country, a.rir_registry, a.enrichment
    FROM @extschema@.asn_inventory a
    WHERE a.asn_number IN (SELECT w.asn_number FROM wanted w)
    ORDER BY a.asn_number
    FOR NO KEY UPDATE
), allowed AS (
    SELECT l.asn_number,
           CASE WHEN w.name IS DISTINCT FROM l.organization_name AND @extschema@.may_replace(l.organization_name, l.enrichment, 'organization_name', w.name_source)
                THEN w.name END AS name, w.name_source,
           CASE WHEN w.country IS DISTINCT FROM l.organization_country AND @extschema@.may_replace(l.organization_country, l.enrichment, 'organization_country', w.country_source)
                THEN w.country END AS country, w.country_source,
           CASE WHEN w.registry IS DISTINCT FROM l.rir_registry AND @extschema@.may_replace(l.rir_registry, l.enrichment, 'rir_registry', w.registry_source)
                THEN w.registry END AS registry, w.registry_source
    FROM wanted w
    JOIN locked l ON l.asn_number = w.asn_number
)
UPDATE @extschema@.asn_inventory a
SET organization_name = COALESCE(w.name, a.organization_name),
    organization_country = COALESCE(w.country, a.organization_country),
    rir_registry = COALESCE(w.registry, a.rir_registry),
    (asn_type, is_known_hosting, is_known_vpn) = (
        SELECT c.asn_type, c.is_known_hosting, c.is_known_vpn
        FROM @extschema@.classify_network(a.asn_number, w.name, a.is_known_hosting, a.is_known_vpn) c
        WHERE w.name IS NOT NULL
        UNION ALL
        SELECT a.asn_type, a.is_known_hosting, a.is_known_vpn WHERE w.name IS NULL),
    enrichment = a.enrichment || jsonb_build_object('provenance',
        COALESCE(a.enrichment -> 'provenance', '{}') || jsonb_strip_nulls(jsonb_build_object(
            'organization_name', CASE WHEN w.name IS NOT NULL THEN w.name_source END,
            'organization_country', CASE WHEN w.country IS NOT NULL THEN w.country_source END,
            'rir_registry', CASE WHEN w.registry IS NOT NULL THEN w.registry_source END))),
    enrichment_updated_at = now(),
    updated_at = now()
FROM allowed w
WHERE a.asn_number = w.asn_number AND (w.name IS NOT NULL OR w.country IS NOT NULL OR w.registry IS NOT NULL)
RETURNING a.asn_number, a.organization_country, a.rir_registry, a.organization_name
