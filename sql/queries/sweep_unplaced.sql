-- Queues what nobody queued, or what got lost: addresses without a network that Cymru was never asked about, or said
-- long enough ago that nobody announces. Looks at $1 of them, from behind the key ($3, $4) on; what is queued already is
-- left out. Answers how many it looked at, and the last one's key.
-- $1 most bigint, $2 now as text in ISO 8601, $3 text, $4 inet
WITH seen AS MATERIALIZED (
    SELECT i.ip_address, COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C" AS retry_after
    FROM @extschema@.ip_inventory i
    WHERE i.current_asn IS NULL AND NOT i.is_bogon
      AND COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C" <= $2
      AND (COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C", i.ip_address) > ($3, $4)
    ORDER BY COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C", i.ip_address
    LIMIT $1
), queued AS (
    INSERT INTO @extschema@.enrichment_request (ip_address, provider)
    SELECT s.ip_address, 'cymru'
    FROM seen s
    -- The column says what was known when the row was written.
    WHERE NOT @extschema@.is_bogon(s.ip_address)
      AND (SELECT true FROM @extschema@.job_address a
           WHERE a.provider = 'cymru' AND a.ip_address = s.ip_address) IS NULL
      AND (SELECT true FROM @extschema@.dead_letter d
           WHERE d.provider = 'cymru' AND d.ip_address = s.ip_address) IS NULL
)
SELECT s.ip_address, s.retry_after, count(*) OVER ()
FROM seen s
ORDER BY s.retry_after DESC, s.ip_address DESC
LIMIT 1
