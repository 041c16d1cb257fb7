-- Replaces the documents of networks. A name that was changed becomes null. The caller has locked the networks.
-- $1 bigint[]: ASNs
-- $2 jsonb[]: new document and names of each network in one JSON object
UPDATE @extschema@.asn_inventory n
SET enrichment = CASE jsonb_typeof(g.network -> 'document') WHEN 'object' THEN g.network -> 'document' ELSE '{}' END,
    organization_name = CASE WHEN n.organization_name = g.network ->> 'organization_name' THEN n.organization_name END,
    as_name = CASE WHEN n.as_name = g.network ->> 'as_name' THEN n.as_name END,
    updated_at = now()
FROM unnest($1, $2) AS g(asn_number, network)
WHERE n.asn_number = g.asn_number
