-- $1 bigint: asn
-- $2 text: provider
INSERT INTO @extschema@.enrichment_request (asn_number, provider) VALUES ($1, $2)
