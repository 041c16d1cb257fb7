-- New addresses of which nothing is known yet, in order. No other table is opened, so that only a lock on the inventory stands in
-- the way. An address that somebody else creates at the same time is waited for and left alone.
-- $1 inet[]: ip
-- $2 jsonb[]: document
-- $3 text: layout version
INSERT INTO @extschema@.ip_inventory AS i (ip_address, enrichment, enrichment_updated_at, enrichment_version)
SELECT g.ip, g.document, now(), $3
FROM unnest($1, $2) AS g(ip, document)
ORDER BY g.ip
ON CONFLICT (ip_address) DO NOTHING
RETURNING i.ip_address
