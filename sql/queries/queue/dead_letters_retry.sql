-- Puts the dead letters of one provider, or of all providers, back into the queue. Returns the number of these dead
-- letters.
-- $1 text: name of the provider, or null for all providers
WITH revived AS (
    DELETE FROM @extschema@.dead_letter d
    WHERE $1 IS NULL OR d.provider = $1
    RETURNING d.ip_address, d.asn_number, d.provider, d.priority
), queued AS (
    INSERT INTO @extschema@.enrichment_request (ip_address, asn_number, provider, priority)
    SELECT r.ip_address, r.asn_number, r.provider, r.priority FROM revived r
    RETURNING 1
)
SELECT count(*) FROM queued
