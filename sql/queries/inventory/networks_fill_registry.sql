-- Sets the registry of networks without a registry. The caller has locked the networks. Returns the networks that
-- changed.
-- $1 bigint[]: ASN of each network
-- $2 text[]: registry of each network
-- $3 text: source of the registries
UPDATE @extschema@.asn_inventory a
SET rir_registry = g.registry,
    enrichment = a.enrichment || jsonb_build_object('provenance',
        COALESCE(a.enrichment -> 'provenance', '{}') || jsonb_build_object('rir_registry', $3)),
    enrichment_updated_at = now(),
    updated_at = now()
FROM unnest($1, $2) AS g(asn, registry)
WHERE a.asn_number = g.asn AND a.rir_registry IS NULL
RETURNING a.asn_number, a.organization_country, a.rir_registry, a.organization_name
