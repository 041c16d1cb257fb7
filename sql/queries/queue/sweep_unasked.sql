-- Queues lookups of addresses in three cases:
-- - A provider was never asked about the address.
-- - The address has no network, and the negative answer of a provider has expired.
-- - The lookup was skipped, and the address has had sessions since then.
--
-- Reads at most $1 addresses greater than $2. Leaves out lookups that are already queued or are dead letters. Returns
-- the last address that was read, and the number of addresses that were read.
-- $1 bigint: maximum number of addresses to read
-- $2 inet: last address that was read; 0.0.0.0 at the start
-- $3 text[]: names of the providers
-- $4 boolean[]: for each provider, true if it is asked only about addresses without a known network
WITH seen AS MATERIALIZED (
    SELECT i.ip_address, i.current_asn IS NULL AS is_unplaced, i.is_bogon, i.session_count, i.last_seen, i.enrichment
    FROM @extschema@.ip_inventory i
    WHERE i.ip_address > $2
    ORDER BY i.ip_address
    LIMIT $1
), queued AS (
    INSERT INTO @extschema@.enrichment_request (ip_address, provider)
    SELECT s.ip_address, p.provider
    FROM seen s
    CROSS JOIN unnest($3, $4) AS p(provider, for_unplaced)
    WHERE NOT s.is_bogon AND (s.is_unplaced OR NOT p.for_unplaced)
      AND (@extschema@.is_source_open(s.enrichment, p.provider, p.for_unplaced)
           OR @extschema@.has_sessions_since_skip(s.enrichment, p.provider, s.session_count, s.last_seen))
      AND @extschema@.may_be_asked(p.provider, s.ip_address)
      AND (SELECT true FROM @extschema@.job_address a
           WHERE a.provider = p.provider AND a.ip_address = s.ip_address) IS NULL
      AND (SELECT true FROM @extschema@.dead_letter d
           WHERE d.provider = p.provider AND d.ip_address = s.ip_address) IS NULL
)
SELECT s.ip_address, count(*) OVER ()
FROM seen s
ORDER BY s.ip_address DESC
LIMIT 1
