-- Checks the result after GreyNoise, DShield and SPUR have been asked about every address, like check.sql.
-- Expects demo/hosts.tsv without comments on standard input.

\set QUIET 1
\pset footer off
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

CREATE TEMPORARY TABLE hosts (
    prefix inet PRIMARY KEY, classification text, name text, riot text, country text, asn bigint, as_name text,
    reports bigint, attacks bigint, tunnels text, infrastructure text, devices text);
\copy hosts FROM pstdin WITH (FORMAT csv, DELIMITER E'\t', HEADER, NULL '-')

\echo 'Check: compares the answers of the worker with demo/hosts.tsv'
CREATE TEMPORARY TABLE found AS
SELECT
    addresses.*,
    family(addresses.ip_address) = 4 AS is_ipv4,
    host.classification,
    host.name,
    host.riot,
    host.reports,
    host.asn,
    -- The types of an address: first those of tunnels, then that of the location, then those of devices,
    -- each type once.
    ARRAY(
        SELECT type
        FROM unnest(
            string_to_array(regexp_replace(host.tunnels, ':[^,]*', '', 'g'), ',') || host.infrastructure
            || string_to_array(host.devices, ',')
        ) WITH ORDINALITY AS listed(type, place)
        WHERE type IS NOT NULL
        GROUP BY type
        ORDER BY min(place)
    ) AS expected_types
FROM ip_inventory AS addresses
LEFT JOIN LATERAL (
    SELECT * FROM hosts WHERE hosts.prefix >>= addresses.ip_address ORDER BY masklen(hosts.prefix) DESC LIMIT 1
) AS host ON true
WHERE NOT addresses.is_bogon;

WITH asked AS (
    SELECT
        provider,
        requests,
        unanswered + refused + foreign_rows + malformed_rows + oversized_rows + unreachable + silent + timed_out
            + cut_off + too_large + failed + dead_letters + throttled + unauthorized + bad_status AS wrong
    FROM provider_status
    WHERE provider IN ('greynoise', 'dshield', 'spur')
), led AS (
    SELECT
        ip_address,
        coalesce(
            (SELECT type FROM unnest(ARRAY['VPN', 'TOR', 'PROXY', 'DATACENTER', 'RESIDENTIAL', 'MOBILE'])
                WITH ORDINALITY AS ranked(type, place)
             WHERE type = ANY (expected_types) ORDER BY place LIMIT 1),
            expected_types[1]
        ) AS type
    FROM found
), checks (nth, what, expected, got) AS (
    SELECT 1, 'public IPv4 addresses = requests to GreyNoise, one for each', (SELECT count(*) FROM found WHERE is_ipv4),
        (SELECT requests FROM asked WHERE provider = 'greynoise')
    UNION ALL
    SELECT 2, 'public addresses = requests to DShield', (SELECT count(*) FROM found),
        (SELECT requests FROM asked WHERE provider = 'dshield')
    UNION ALL
    SELECT 3, 'public addresses = requests to SPUR', (SELECT count(*) FROM found),
        (SELECT requests FROM asked WHERE provider = 'spur')
    UNION ALL
    SELECT 4, 'IPv6 addresses that were sent to GreyNoise', 0,
        (SELECT count(*) FROM found WHERE NOT is_ipv4 AND (enrichment ? 'greynoise' OR enrichment -> '_meta' ? 'greynoise'))
    UNION ALL
    SELECT 5, 'addresses with a wrong is_scanner', 0,
        (SELECT count(*) FROM found WHERE is_scanner IS DISTINCT FROM (is_ipv4 AND classification IS NOT NULL))
    UNION ALL
    SELECT 6, 'addresses with another GreyNoise class or name', 0,
        (SELECT count(*) FROM found
         WHERE is_ipv4 AND (classification IS NOT NULL OR riot = 'yes')
           AND (enrichment #>> '{greynoise,classification}', enrichment #>> '{greynoise,name}')
             IS DISTINCT FROM (coalesce(classification, 'benign'), name))
    UNION ALL
    SELECT 7, 'addresses with other reports or another network at DShield', 0,
        (SELECT count(*) FROM found
         WHERE (enrichment #>> '{dshield,ip,count}', enrichment #>> '{dshield,ip,as}')
             IS DISTINCT FROM (reports::text, asn::text))
    UNION ALL
    SELECT 8, 'addresses with wrong ip_types', 0,
        (SELECT count(*) FROM found WHERE ip_types IS DISTINCT FROM expected_types)
    UNION ALL
    SELECT 9, 'sessions with another snapshot_ip_type than the leading type', 0,
        (SELECT count(*) FROM sessions JOIN led ON led.ip_address = session_address(sessions.ip)
         WHERE sessions.snapshot_ip_type IS DISTINCT FROM led.type)
    UNION ALL
    SELECT 10, 'sessions whose snapshot_ip_type was completed', (
            SELECT count(*) FROM sessions JOIN led ON led.ip_address = session_address(sessions.ip)
            WHERE led.type IS NOT NULL),
        (SELECT count(*) FROM sessions WHERE snapshot_ip_type IS NOT NULL)
    UNION ALL
    SELECT 11, 'failed requests and invalid answers', 0, (SELECT sum(wrong)::bigint FROM asked)
    UNION ALL
    SELECT 12, 'lookups and dead letters left in the queues', 0,
        (SELECT sum(requested + jobs + addresses + dead)::bigint FROM queue_status JOIN asked USING (provider))
)
SELECT what, expected, got, CASE WHEN expected = got THEN 'ok' ELSE 'FAILED' END AS outcome
FROM checks
ORDER BY nth;
