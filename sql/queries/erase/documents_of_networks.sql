-- Returns networks, in ascending order of the ASNs, each with its document and its names in one JSON object.
-- $1 bigint: ASN of the last network of the previous batch, or null for the first batch
-- $2 bigint: maximum number of networks to return
SELECT n.asn_number,
       jsonb_build_object('document', n.enrichment, 'organization_name', n.organization_name, 'as_name', n.as_name)
FROM @extschema@.asn_inventory n
WHERE n.asn_number > COALESCE($1, -1)
ORDER BY n.asn_number
LIMIT $2
