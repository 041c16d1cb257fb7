-- Creates those imported networks that asn_inventory does not contain, in the order of their ASNs.
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
INSERT INTO @extschema@.asn_inventory (
    asn_number, organization_name, organization_country, rir_registry, asn_type, is_known_hosting, is_known_vpn,
    first_seen, last_seen, enrichment, enrichment_updated_at, created_at)
SELECT g.asn, g.name, g.country, g.registry,
       COALESCE(k.asn_type, g.type, @extschema@.classify_name(g.name)),
       COALESCE(k.is_hosting, false) OR g.hosting, COALESCE(k.is_vpn, false) OR g.vpn,
       g.first_seen, g.last_seen,
       g.document || jsonb_build_object('provenance', jsonb_strip_nulls(jsonb_build_object(
           'organization_name', g.name_source,
           'organization_country', g.country_source,
           'rir_registry', g.registry_source))),
       COALESCE(g.updated, now()), COALESCE(g.created, now())
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS g(
    asn, name, country, registry, name_source, country_source, registry_source, type, hosting, vpn,
    first_seen, last_seen, document, updated, created)
LEFT JOIN @extschema@.known_networks k ON k.asn_number = g.asn
WHERE NOT EXISTS (SELECT FROM @extschema@.asn_inventory a WHERE a.asn_number = g.asn)
ORDER BY g.asn
ON CONFLICT (asn_number) DO NOTHING
RETURNING asn_number, organization_country, rir_registry
