-- Merges imported values into existing networks, and locks the networks in the order of their ASNs. The name, country
-- and registry are each set if the stored value is null or has a source of lower rank. The period from first_seen to
-- last_seen can only grow. Parts of the imported document are added if the stored document lacks them. Returns the
-- networks that changed.
-- $1 bigint[]: ASN of each network
-- $2 text[]: name of the organisation of each network
-- $3 text[]: country of each network
-- $4 text[]: registry of each network
-- $5 text[]: source of each name
-- $6 text[]: source of each country
-- $7 text[]: source of each registry
-- $8 text[]: type of each network
-- $9 boolean[]: is_known_hosting of each network
-- $10 boolean[]: is_known_vpn of each network
-- $11 timestamptz[]: first_seen of each network
-- $12 timestamptz[]: last_seen of each network
-- $13 jsonb[]: enrichment document of each network
-- $14 timestamptz[]: time of the last update of each network
-- $15 timestamptz[]: time when each network was created
WITH given AS (
    SELECT *
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS g(
        asn, name, country, registry, name_source, country_source, registry_source, type, hosting, vpn,
        first_seen, last_seen, document, updated, created)
), locked AS (
    SELECT a.*
    FROM @extschema@.asn_inventory a
    WHERE a.asn_number IN (SELECT g.asn FROM given g)
    ORDER BY a.asn_number
    FOR NO KEY UPDATE
), ours AS (
    SELECT l.*,
           CASE WHEN jsonb_typeof(l.enrichment) = 'object' THEN l.enrichment ELSE '{}' END AS document,
           CASE WHEN jsonb_typeof(l.enrichment -> 'provenance') = 'object' THEN l.enrichment -> 'provenance' ELSE '{}' END AS provenance
    FROM locked l
), chosen AS (
    SELECT o.*, g.type, g.hosting, g.vpn, g.created,
           LEAST(@extschema@.session_time(o.first_seen), g.first_seen) AS new_first_seen,
           GREATEST(@extschema@.session_time(o.last_seen), g.last_seen) AS new_last_seen,
           g.document || o.document AS merged, g.name_source, g.country_source, g.registry_source,
           CASE WHEN o.organization_name IS NULL
                  OR @extschema@.name_rank(g.name_source) > @extschema@.name_rank(o.provenance ->> 'organization_name')
                THEN g.name END AS name,
           CASE WHEN o.organization_country IS NULL
                  OR @extschema@.source_rank(g.country_source) > @extschema@.source_rank(o.provenance ->> 'organization_country')
                THEN g.country END AS country,
           CASE WHEN o.rir_registry IS NULL
                  OR @extschema@.source_rank(g.registry_source) > @extschema@.source_rank(o.provenance ->> 'rir_registry')
                THEN g.registry END AS registry
    FROM ours o
    JOIN given g ON g.asn = o.asn_number
), wanted AS (
    SELECT c.asn_number,
           COALESCE(c.name, c.organization_name) AS name,
           COALESCE(c.country, c.organization_country) AS country,
           COALESCE(c.registry, c.rir_registry) AS registry,
           CASE WHEN c.asn_type <> 'UNKNOWN' THEN c.asn_type
                ELSE COALESCE(c.type, @extschema@.classify_asn(c.asn_number, COALESCE(c.name, c.organization_name))) END AS type,
           c.is_known_hosting OR c.hosting AS hosting, c.is_known_vpn OR c.vpn AS vpn,
           c.new_first_seen, c.new_last_seen,
           LEAST(c.created_at, c.created) AS created,
           c.merged || jsonb_build_object('provenance', c.provenance || jsonb_strip_nulls(jsonb_build_object(
               'organization_name', CASE WHEN c.name IS NOT NULL THEN c.name_source END,
               'organization_country', CASE WHEN c.country IS NOT NULL THEN c.country_source END,
               'rir_registry', CASE WHEN c.registry IS NOT NULL THEN c.registry_source END))) AS document
    FROM chosen c
)
UPDATE @extschema@.asn_inventory a
SET organization_name = w.name,
    organization_country = w.country,
    rir_registry = w.registry,
    asn_type = w.type,
    is_known_hosting = w.hosting,
    is_known_vpn = w.vpn,
    first_seen = w.new_first_seen,
    last_seen = w.new_last_seen,
    created_at = w.created,
    enrichment = w.document,
    enrichment_updated_at = CASE
        WHEN (w.name, w.country, w.registry) IS DISTINCT FROM (a.organization_name, a.organization_country, a.rir_registry)
        THEN now() ELSE a.enrichment_updated_at END,
    updated_at = now()
FROM wanted w
WHERE a.asn_number = w.asn_number
  AND (w.name, w.country, w.registry, w.type, w.hosting, w.vpn, w.new_first_seen, w.new_last_seen, w.created, w.document)
      IS DISTINCT FROM
      (a.organization_name, a.organization_country, a.rir_registry, a.asn_type, a.is_known_hosting, a.is_known_vpn,
       a.first_seen, a.last_seen, a.created_at, a.enrichment)
RETURNING a.asn_number
