-- Sessions of @table@ without a network whose addresses have one now: what is null is filled. Rows that somebody holds
-- are passed over.
-- $1 ip inet[], $2 asn bigint[], $3 country text[], $4 document jsonb[]
WITH waiting AS (
    SELECT s.tableoid AS part, s.ctid AS place, @extschema@.session_address(s.@ip@) AS ip
    FROM @table@ s
    WHERE s.snapshot_asn IS NULL AND @extschema@.session_address(s.@ip@) = ANY ($1)
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE @table@ s
SET snapshot_asn = g.asn,
    snapshot_country = COALESCE(s.snapshot_country, g.country),
    enrichment = COALESCE(s.enrichment, g.document - '_meta'),
    enrichment_at = COALESCE(s.enrichment_at, now())
FROM waiting w
JOIN unnest($1, $2, $3, $4) AS g(ip, asn, country, document) ON g.ip = w.ip
WHERE s.ctid = w.place AND s.tableoid = w.part
