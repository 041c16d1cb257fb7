-- Deletes those requests to a provider from which the worker has not created jobs yet. If $2 is set, deletes only the requests
-- about this address. Returns the addresses and networks of the deleted requests.
-- $1 text: name of the provider
-- $2 inet: address, or null for all addresses
DELETE FROM @extschema@.enrichment_request r
WHERE r.provider = $1 AND ($2 IS NULL OR r.ip_address = $2)
RETURNING r.ip_address, r.asn_number
