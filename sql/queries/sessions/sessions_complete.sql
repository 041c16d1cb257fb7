-- Fills the null snapshot columns of the sessions that a table has at these tuple ids. Skips sessions that another
-- transaction has locked. Runs as the table's owner, who may have no rights on the extension's objects. Returns the new
-- tuple id of each session, and whether the session now has all given values. A trigger of the owner may have reset
-- some of these values.
-- $1 tid[]: tuple ids of the sessions
-- $2 bigint[]: network (ASN) of each session
-- $3 text[]: country of each session
-- $4 text[]: type of the address of each session
-- $5 jsonb[]: document of each session
WITH waiting AS (
    SELECT s.ctid AS place, g.asn, g.country, g.type, g.document
    FROM @table@ s
    JOIN unnest($1, $2, $3, $4, $5) AS g(place, asn, country, type, document) ON g.place = s.ctid
    WHERE s.ctid = ANY ($1)
      AND (s.snapshot_asn IS NULL OR s.snapshot_country IS NULL OR s.snapshot_ip_type IS NULL OR s.enrichment IS NULL)
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE @table@ s
SET snapshot_asn = COALESCE(s.snapshot_asn, w.asn),
    snapshot_country = COALESCE(s.snapshot_country, w.country),
    snapshot_ip_type = COALESCE(s.snapshot_ip_type, w.type),
    enrichment = COALESCE(s.enrichment, w.document - '_meta'),
    enrichment_at = COALESCE(s.enrichment_at, now())
FROM waiting w
WHERE s.ctid = w.place
RETURNING s.ctid, (w.asn IS NULL OR s.snapshot_asn IS NOT NULL)
    AND (w.country IS NULL OR s.snapshot_country IS NOT NULL)
    AND (w.type IS NULL OR s.snapshot_ip_type IS NOT NULL)
