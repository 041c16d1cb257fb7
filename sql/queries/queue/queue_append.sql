-- Queues the lookup of an address.
-- $1 inet: address
-- $2 text: name of the provider
-- $3 integer: priority of the lookup
INSERT INTO @extschema@.enrichment_request (ip_address, provider, priority) VALUES ($1, $2, $3)
