-- $1 inet: ip
-- $2 text: provider
-- $3 integer: priority
INSERT INTO @extschema@.enrichment_request (ip_address, provider, priority) VALUES ($1, $2, $3)
