-- Creates networks in the order of their ASNs. If another transaction is creating the same network, waits for this
-- transaction and leaves its row unchanged. Returns the created networks.
-- $1 bigint[]: ASN of each network
-- $2 text[]: name of the organisation of each network
-- $3 text[]: country of each network
-- $4 text[]: registry of each network
-- $5 timestamptz[]: first_seen of each network
-- $6 timestamptz[]: last_seen of each network
-- $7 text[]: source of each name
-- $8 text[]: source of each country
-- $9 text[]: source of each registry
INSERT INTO @extschema@.asn_inventory (
    asn_number, organization_name, organization_country, rir_registry, asn_type, is_known_hosting, is_known_vpn,
    first_seen, last_seen, enrichment, enrichment_updated_at)
SELECT g.asn, g.name, g.country, g.registry,
       COALESCE(k.asn_type, @extschema@.classify_name(g.name)), COALESCE(k.is_hosting, false), COALESCE(k.is_vpn, false),
       g.first_seen, g.last_seen,
       jsonb_build_object('provenance', jsonb_strip_nulls(jsonb_build_object(
           'organization_name', CASE WHEN g.name IS NOT NULL THEN g.name_source END,
           'organization_country', CASE WHEN g.country IS NOT NULL THEN g.country_source END,
           'rir_registry', CASE WHEN g.registry IS NOT NULL THEN g.registry_source END))),
       now()
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
    AS g(asn, name, country, registry, first_seen, last_seen, name_source, country_source, registry_source)
LEFT JOIN @extschema@.known_networks k ON k.asn_number = g.asn
WHERE NOT EXISTS (SELECT FROM @extschema@.asn_inventory a WHERE a.asn_number = g.asn)
ORDER BY g.asn
ON CONFLICT (asn_number) DO NOTHING
RETURNING asn_number, organization_country, rir_registry, organization_name
