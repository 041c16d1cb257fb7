-- Locks these networks in ascending order. Returns the networks, each with its document and its names in one JSON object.
-- $1 bigint[]: ASNs
SELECT n.asn_number,
       jsonb_build_object('document', n.enrichment, 'organization_name', n.organization_name, 'as_name', n.as_name)
FROM @extschema@.asn_inventory n
WHERE n.asn_number = ANY ($1)
ORDER BY n.asn_number
FOR NO KEY UPDATE
