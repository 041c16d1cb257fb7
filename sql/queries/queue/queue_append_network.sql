-- Queues the lookup of a network.
-- $1 bigint: ASN of the network
-- $2 text: name of the provider
INSERT INTO @extschema@.enrichment_request (asn_number, provider) VALUES ($1, $2)
