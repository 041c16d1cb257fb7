-- Locks these networks in ascending order. Returns the networks and their documents.
-- $1 bigint[]: ASNs
SELECT n.asn_number, n.enrichment
FROM @extschema@.asn_inventory n
WHERE n.asn_number = ANY ($1)
ORDER BY n.asn_number
FOR NO KEY UPDATE
