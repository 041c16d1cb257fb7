-- Checks the result after the worker has emptied the queue, like check.sql.
-- Expects demo/cymru-routes.tsv without comments on standard input, and two variables. `addresses` is the number
-- of addresses that had no network when the worker started. `lookups` is the number of their blocks.

\set QUIET 1
\pset footer off
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

CREATE TEMPORARY TABLE lines (prefix text, asn bigint, country text, registry text, allocated date, name text);
\copy lines FROM pstdin WITH (FORMAT csv, DELIMITER E'\t', HEADER)
CREATE TEMPORARY TABLE routes AS SELECT prefix::cidr, asn, name FROM lines WHERE prefix <> '-';
-- The facts about each network of the inventory, and what the inventory has.
CREATE TEMPORARY TABLE facts AS
SELECT networks.*, lines.country, lines.registry, lines.allocated, lines.name,
    replace(upper(lines.registry), 'RIPENCC', 'RIPE') AS registry_name,
    networks.enrichment -> 'provenance' AS sources
FROM asn_inventory AS networks
LEFT JOIN lines ON lines.asn = networks.asn_number AND lines.prefix = '-'
WHERE NOT is_bogon_asn(networks.asn_number);

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
         WHERE networks.enrichment #>> '{provenance,organization_name}' = 'cymru'
           AND networks.organization_name <> regexp_replace(found.expected_name, ', [A-Z]{2}$', ''))
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
    SELECT 6, 'addresses with an answer that names a network, and networks with an answer',
        (SELECT count(expected_asn) FROM found) + (SELECT count(*) FROM facts), (SELECT answers FROM cymru)
    UNION ALL
    SELECT 7, 'addresses with the answer that no network announces them',
        (SELECT count(*) - count(expected_asn) FROM found), (SELECT absent FROM cymru)
    UNION ALL
    SELECT 8, 'prefixes (/24 and /48) and networks = lookups sent, one for each',
        :lookups + (SELECT count(*) FROM facts), (SELECT lookups FROM cymru)
    UNION ALL
    -- Networks from answers about addresses are looked up in a later request than the networks of the files.
    SELECT 9, 'requests, with at most 500 lookups each: fewer than 6', 1,
        (SELECT (requests BETWEEN 2 AND 5)::integer FROM cymru)
    UNION ALL
    SELECT 10, 'failed requests and invalid rows', 0,
        (SELECT unanswered + refused + foreign_rows + malformed_rows + oversized_rows + unreachable + silent + timed_out
            + cut_off + too_large + failed + dead_letters FROM cymru)
    UNION ALL
    SELECT 11, 'lookups and dead letters left in the queue', 0,
        (SELECT requested + jobs + addresses + dead FROM queue_status WHERE provider = 'cymru')
    UNION ALL
    SELECT 12, 'networks without a registry or a country of registration', 0,
        (SELECT count(*) FROM facts WHERE organization_country IS NULL OR rir_registry IS NULL)
    UNION ALL
    SELECT 13, 'networks whose registry, country, date or name is not the one in the lines about networks', 0,
        (SELECT count(*) FROM facts
         WHERE (rir_registry, organization_country, allocated_on, as_name)
               IS DISTINCT FROM (registry_name, country, allocated, name))
    UNION ALL
    SELECT 14, 'networks whose registry and country do not have the source cymru', 0,
        (SELECT count(*) FROM facts
         WHERE sources ->> 'rir_registry' <> 'cymru' OR sources ->> 'organization_country' <> 'cymru'
            OR NOT sources ?& '{rir_registry,organization_country,organization_name,as_name}')
    UNION ALL
    SELECT 15, 'networks with a name in the ASN file and another name in asn_inventory', 0,
        (SELECT count(DISTINCT addresses.current_asn)
         FROM ip_inventory AS addresses
         JOIN facts ON facts.asn_number = addresses.current_asn
         WHERE ip_asn(addresses.ip_address) = facts.asn_number
           AND ip_asn_org(addresses.ip_address) IS DISTINCT FROM facts.organization_name)
)
SELECT what, expected, got, CASE WHEN expected = got THEN 'ok' ELSE 'FAILED' END AS outcome
FROM checks
ORDER BY nth;
