-- Replaces the documents of networks. The caller has locked the networks.
-- $1 bigint[]: ASNs
-- $2 jsonb[]: new document of each network
UPDATE @extschema@.asn_inventory n
SET enrichment = g.document, updated_at = now()
FROM unnest($1, $2) AS g(asn_number, document)
WHERE n.asn_number = g.asn_number
