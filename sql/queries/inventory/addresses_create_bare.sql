-- Creates addresses without data, in ascending order. Uses no table except ip_inventory, so that locks on other tables
-- cannot block the statement. If another transaction is creating the same address, waits for this transaction and
-- leaves its row unchanged.
-- $1 inet[]: addresses
-- $2 jsonb[]: enrichment document of each address
-- $3 text: version of the layout of the documents
INSERT INTO @extschema@.ip_inventory AS i (ip_address, enrichment, enrichment_updated_at, enrichment_version)
SELECT g.ip, g.document, now(), $3
FROM unnest($1, $2) AS g(ip, document)
ORDER BY g.ip
ON CONFLICT (ip_address) DO NOTHING
RETURNING i.ip_address
