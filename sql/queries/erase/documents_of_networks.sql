-- Returns networks and their documents, in ascending order of the ASNs.
-- $1 bigint: ASN of the last network of the previous batch, or null for the first batch
-- $2 bigint: maximum number of networks to return
SELECT n.asn_number, n.enrichment
FROM @extschema@.asn_inventory n
WHERE n.asn_number > COALESCE($1, -1)
ORDER BY n.asn_number
LIMIT $2
