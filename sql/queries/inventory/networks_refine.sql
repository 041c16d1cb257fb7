-- Refines the metadata of existing networks. Sets a field if it is null or if the stored value has a source of lower
-- rank. If the new value equals the stored value, the statement still stores the new source. Otherwise a third source
-- with a rank between the two sources could replace the value later.
--
-- The source 'cymru' may also replace an earlier name from 'cymru', because a name describes the network itself. A
-- country or registry from 'cymru' does not replace an earlier one from 'cymru', because these values describe one
-- address or prefix.
--
-- The values are compared again after the rows are locked, because another transaction may have written a better value
-- meanwhile. Returns each network that changed, and whether the network existed before this transaction.
-- $1 bigint[]: ASN of each network
-- $2 text[]: name of the organisation of each network
-- $3 text[]: country of each network
-- $4 text[]: registry of each network
-- $5 text: source of the values
-- $6 boolean: true to replace also values whose source has the same or a higher rank
WITH given AS (
    SELECT g.asn, g.name, g.country, g.registry
    FROM unnest($1, $2, $3, $4) AS g(asn, name, country, registry)
), better AS (
    SELECT a.asn_number,
           CASE WHEN (g.name, $5) IS DISTINCT FROM (a.organization_name, a.enrichment #>> '{provenance,organization_name}')
                 AND ($6 OR @extschema@.may_replace(a.organization_name, a.enrichment, 'organization_name', $5)) THEN g.name END AS name,
           CASE WHEN (g.country, $5) IS DISTINCT FROM (a.organization_country, a.enrichment #>> '{provenance,organization_country}')
                 AND ($6 OR @extschema@.may_replace(a.organization_country, a.enrichment, 'organization_country', $5)) THEN g.country END AS country,
           CASE WHEN (g.registry, $5) IS DISTINCT FROM (a.rir_registry, a.enrichment #>> '{provenance,rir_registry}')
                 AND ($6 OR @extschema@.may_replace(a.rir_registry, a.enrichment, 'rir_registry', $5)) THEN g.registry END AS registry
    FROM @extschema@.asn_inventory a
    JOIN given g ON g.asn = a.asn_number
), wanted AS (
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
           CASE WHEN $6 OR @extschema@.may_replace(l.organization_name, l.enrichment, 'organization_name', $5)
                THEN w.name END AS name,
           CASE WHEN $6 OR @extschema@.may_replace(l.organization_country, l.enrichment, 'organization_country', $5)
                THEN w.country END AS country,
           CASE WHEN $6 OR @extschema@.may_replace(l.rir_registry, l.enrichment, 'rir_registry', $5)
                THEN w.registry END AS registry
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
            'organization_name', CASE WHEN w.name IS NOT NULL THEN $5 END,
            'organization_country', CASE WHEN w.country IS NOT NULL THEN $5 END,
            'rir_registry', CASE WHEN w.registry IS NOT NULL THEN $5 END))),
    enrichment_updated_at = now(),
    updated_at = now()
FROM allowed w
WHERE a.asn_number = w.asn_number AND (w.name IS NOT NULL OR w.country IS NOT NULL OR w.registry IS NOT NULL)
RETURNING a.asn_number, a.organization_country, a.rir_registry, a.organization_name, a.created_at <> now()
