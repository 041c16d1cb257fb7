-- Queues what nobody queued, or what got lost: addresses without a network that Cymru was never asked about, or said
-- long enough ago that nobody announces. At most $1; answers how many.
-- $1 most bigint, $2 now as text in ISO 8601
WITH queued AS (
    INSERT INTO @extschema@.enrichment_request (ip_address, provider)
    SELECT i.ip_address, 'cymru'
    FROM @extschema@.ip_inventory i
    WHERE i.current_asn IS NULL AND NOT i.is_bogon
      AND COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C" <= $2
      AND NOT EXISTS (
        SELECT FROM @extschema@.job_address a WHERE a.provider = 'cymru' AND a.ip_address = i.ip_address)
      AND NOT EXISTS (
        SELECT FROM @extschema@.dead_letter d WHERE d.provider = 'cymru' AND d.ip_address = i.ip_address)
      AND NOT EXISTS (
        SELECT FROM @extschema@.enrichment_request r WHERE r.provider = 'cymru' AND r.ip_address = i.ip_address)
    ORDER BY COALESCE(i.enrichment #>> '{_meta,cymru,retry_after}', '') COLLATE "C"
    LIMIT $1
    RETURNING 1
)
SELECT count(*) FROM queued
