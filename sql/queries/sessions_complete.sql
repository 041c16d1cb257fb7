-- Sessions of @table@ without a network, at these places: what is null is filled. Rows that somebody holds are passed
-- over. Runs as the table's owner, who need not have rights on anything of ours.
-- $1 place tid[], $2 asn bigint[], $3 country text[], $4 document jsonb[]
WITH waiting AS (
    SELECT s.ctid AS place, g.asn, g.country, g.document
    FROM @table@ s
    JOIN unnest($1, $2, $3, $4) AS g(place, asn, country, document) ON g.place = s.ctid
    WHERE s.ctid = ANY ($1) AND s.snapshot_asn IS NULL
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE @table@ s
SET snapshot_asn = w.asn,
    snapshot_country = COALESCE(s.snapshot_country, w.country),
    enrichment = COALESCE(s.enrichment, w.document - '_meta'),
    enrichment_at = COALESCE(s.enrichment_at, now())
FROM waiting w
WHERE s.ctid = w.place
