-- Checks the result after the worker has emptied the queue, like check.sql.
-- Expects demo/cymru-routes.tsv without comments on standard input, and two variables. `addresses` is the number
-- of addresses that had no network when the worker started. `lookups` is the number of their blocks.

\set QUIET 1
\pset footer off
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

CREATE TEMPORARY TABLE routes (
    prefix cidr PRIMARY KEY, asn bigint, country text, registry text, allocated date, name text);
\copy routes FROM pstdin WITH (FORMAT csv, DELIMITER E'\t', HEADER)

\echo 'Check: compares the answers of the worker with demo/cymru-routes.tsv'
CREATE TEMPORARY TABLE found AS
SELECT addresses.ip_address, addresses.current_asn, route.asn AS expected_asn, route.name AS expected_name
FROM ip_inventory AS addresses
LEFT JOIN LATERAL (
    SELECT * FROM routes WHERE routes.prefix >>= addresses.ip_address ORDER BY masklen(routes.prefix) DESC LIMIT 1
) AS route ON true
WHERE NOT addresses.is_bogon AND ip_asn(addresses.ip_address) IS NULL;

WITH cymru AS (
    SELECT * FROM provider_status() WHERE provider = 'cymru'
), checks (nth, what, expected, got) AS (
    SELECT 1, 'addresses without a network in the ASN file = those at the start of the worker',
        :addresses::bigint, (SELECT count(*) FROM found)
    UNION ALL
    SELECT 2, 'addresses in another network than in the routes', 0,
        (SELECT count(*) FROM found WHERE current_asn IS DISTINCT FROM expected_asn)
    UNION ALL
    SELECT 3, 'networks with another name than in the routes', 0,
        (SELECT count(*) FROM found JOIN asn_inventory AS networks ON networks.asn_number = found.expected_asn
         WHERE networks.organization_name <> found.expected_name)
    UNION ALL
    SELECT 4, 'sessions of these addresses with another network in their snapshot', 0,
        (SELECT count(*) FROM sessions JOIN found ON found.ip_address = session_address(sessions.ip)
         WHERE sessions.snapshot_asn IS DISTINCT FROM found.expected_asn)
    UNION ALL
    SELECT 5, 'addresses with a network = rows in ip_asn_history with source cymru',
        (SELECT count(*) FROM found WHERE expected_asn IS NOT NULL),
        (SELECT count(*) FROM ip_asn_history JOIN found USING (ip_address)
         WHERE asn_number = found.expected_asn AND verification_source = 'cymru')
    UNION ALL
    SELECT 6, 'addresses with an answer that names a network', (SELECT count(expected_asn) FROM found),
        (SELECT answers FROM cymru)
    UNION ALL
    SELECT 7, 'addresses with the answer that no network announces them',
        (SELECT count(*) - count(expected_asn) FROM found), (SELECT absent FROM cymru)
    UNION ALL
    SELECT 8, 'prefixes (/24 and /48) = lookups sent, one for each', :lookups, (SELECT lookups FROM cymru)
    UNION ALL
    SELECT 9, 'requests, with at most 500 lookups each', (:lookups + 499) / 500, (SELECT requests FROM cymru)
    UNION ALL
    SELECT 10, 'failed requests and invalid rows', 0,
        (SELECT unanswered + refused + foreign_rows + malformed_rows + oversized_rows + unreachable + silent + timed_out
            + cut_off + too_large + failed + dead_letters FROM cymru)
    UNION ALL
    SELECT 11, 'lookups and dead letters left in the queue', 0,
        (SELECT requested + jobs + addresses + dead FROM queue_status WHERE provider = 'cymru')
)
SELECT what, expected, got, CASE WHEN expected = got THEN 'ok' ELSE 'FAILED' END AS outcome
FROM checks
ORDER BY nth;
