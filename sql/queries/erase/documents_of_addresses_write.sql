-- Replaces the documents of addresses. The caller has locked the addresses.
-- $1 inet[]: addresses
-- $2 jsonb[]: new document of each address
UPDATE @extschema@.ip_inventory i
SET enrichment = g.document, updated_at = now()
FROM unnest($1, $2) AS g(ip_address, document)
WHERE i.ip_address = g.ip_address
