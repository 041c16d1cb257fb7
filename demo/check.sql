-- Checks the result of a load. Prints a table of expected and found values, and FAILED where they differ.
-- Expects the variable `in_log`: the number of sessions in the log, counted without the loader.

\set QUIET 1
\pset footer off
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

\echo
\echo 'Check: compares the tables with the log, and the counts with a recount'
CREATE TEMPORARY TABLE found AS
SELECT
    session_address(sessions.ip) AS address,
    sessions.snapshot_country,
    sessions.snapshot_asn
FROM sessions;

WITH recount AS (
    SELECT address, count(*) AS sessions FROM found WHERE address IS NOT NULL GROUP BY address
), network_recount AS (
    SELECT addresses.current_asn AS asn_number, count(*) AS addresses, coalesce(sum(recount.sessions), 0) AS sessions
    FROM ip_inventory AS addresses
    LEFT JOIN recount ON recount.address = addresses.ip_address
    WHERE addresses.current_asn IS NOT NULL
    GROUP BY addresses.current_asn
), pending AS (
    -- Adds the counts that are still pending, because the worker may be running.
    SELECT asn_number, sum(addresses) AS addresses, sum(sessions) AS sessions FROM network_delta GROUP BY asn_number
), checks (nth, what, expected, got) AS (
    SELECT 1, 'sessions in the log = rows in sessions', :in_log::bigint, (SELECT count(*) FROM sessions)
    UNION ALL
    SELECT 2, 'addresses in sessions = rows in ip_inventory',
        (SELECT count(*) FROM recount), (SELECT count(*) FROM ip_inventory)
    UNION ALL
    SELECT 3, 'addresses whose session_count differs from a recount', 0,
        (SELECT count(*) FROM ip_inventory AS addresses FULL JOIN recount ON recount.address = addresses.ip_address
         WHERE addresses.session_count IS DISTINCT FROM recount.sessions)
    UNION ALL
    SELECT 4, 'networks whose unique_ip_count or total_session_count differs from a recount', 0,
        (SELECT count(*) FROM asn_inventory AS networks
         LEFT JOIN network_recount USING (asn_number)
         LEFT JOIN pending USING (asn_number)
         WHERE (networks.unique_ip_count + coalesce(pending.addresses, 0),
                networks.total_session_count + coalesce(pending.sessions, 0))
             IS DISTINCT FROM (coalesce(network_recount.addresses, 0), coalesce(network_recount.sessions, 0)::bigint))
    UNION ALL
    SELECT 5, 'sessions whose network is not in asn_inventory', 0,
        (SELECT count(*) FROM found LEFT JOIN asn_inventory AS networks ON networks.asn_number = found.snapshot_asn
         WHERE found.snapshot_asn IS NOT NULL AND networks.asn_number IS NULL)
    UNION ALL
    SELECT 6, 'sessions where the City file has a country, but snapshot_country is null', 0,
        (SELECT count(*) FROM found WHERE snapshot_country IS NULL AND ip_country(address) IS NOT NULL AND NOT is_bogon(address))
)
SELECT what, expected, got, CASE WHEN expected = got THEN 'ok' ELSE 'FAILED' END AS outcome
FROM checks
ORDER BY nth;

\echo 'Public addresses with and without a country'
SELECT
    CASE
        WHEN address IS NULL THEN 'not an address'
        WHEN is_bogon(address) THEN 'bogon: ' || bogon_reason(address)
        WHEN snapshot_country IS NOT NULL THEN 'public, with a country'
        ELSE 'public, not in the City database'
    END AS kind,
    count(DISTINCT address) AS addresses,
    count(*) AS sessions,
    count(DISTINCT address) FILTER (WHERE snapshot_asn IS NOT NULL) AS addresses_with_asn
FROM found
GROUP BY kind
ORDER BY sessions DESC;
