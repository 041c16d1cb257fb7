-- $1 ip inet, $2 provider text, $3 priority integer
INSERT INTO @extschema@.enrichment_request (ip_address, provider, priority) VALUES ($1, $2, $3)
