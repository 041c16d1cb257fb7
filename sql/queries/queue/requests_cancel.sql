-- Deletes a provider's requests that the worker has not read. If $2 is set, deletes only the requests about this address. Returns
-- their addresses and networks.
-- $1 text: name of the provider
-- $2 inet: address, or null for all addresses
DELETE FROM @extschema@.enrichment_request r
WHERE r.provider = $1 AND ($2 IS NULL OR r.ip_address = $2)
RETURNING r.ip_address, r.asn_number
