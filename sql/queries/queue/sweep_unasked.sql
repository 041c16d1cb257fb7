-- Queues what nobody queued, or what got lost: addresses that a provider was never asked about, and those without a
-- network of which it said long enough ago that nobody announces them. Looks at $1 of them, from behind $2 on; what is
-- queued already or dead is left out. Answers how many it looked at, and the last one.
-- $1 bigint: most
-- $2 inet: the last address that was looked at, or null
-- $3 text[]: names of the providers
-- $4 boolean[]: of each provider, whether it is for addresses without a network
WITH seen AS MATERIALIZED (
    SELECT i.ip_address, i.current_asn IS NULL AS is_unplaced, i.is_bogon, i.enrichment
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
      AND @extschema@.is_source_open(s.enrichment, p.provider, p.for_unplaced)
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
