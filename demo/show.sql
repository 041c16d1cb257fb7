-- The demo runs this file when the log is loaded: plain SQL on Cowrie's tables and the inventories. Expects three
-- variables: asked (`stand-ins` with the bundled lists and log, else `real` or `nobody`), sources (as in
-- enabled_sources) and before (addresses without a network when the worker started).

\set QUIET 1
\pset footer off
\pset null '-'
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

-- Truncates a text for a table. The mark shows that the text is longer.
CREATE FUNCTION pg_temp.shortened(content text, characters int) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN length(content) > characters THEN left(content, characters - 1) || '…' ELSE content END;

\echo
\echo 'Sample of sessions, enriched when they were stored'
\echo 'country and asn are the snapshot columns that the extension added; they keep the values at the time of the attack.'
WITH sample AS (
    -- Five sessions with an IPv4 address and three with an IPv6 address. Each run shows the same sessions.
    SELECT one.*,
        row_number() OVER (PARTITION BY family(session_address(ip)) ORDER BY md5(id)) + 2 * (ip LIKE '%:%')::int AS nth
    FROM (
        SELECT DISTINCT ON (ip) *
        FROM sessions
        WHERE snapshot_country IS NOT NULL
        ORDER BY ip, starttime
    ) AS one
)
SELECT
    trim(sample.id) AS session,
    to_char(sample.starttime, 'YYYY-MM-DD HH24:MI') AS started,
    sample.ip,
    sample.snapshot_country AS country,
    sample.enrichment -> 'maxmind' ->> 'city' AS city,
    sample.snapshot_asn AS asn,
    pg_temp.shortened(networks.organization_name, 30) AS organization
FROM sample
LEFT JOIN asn_inventory AS networks ON networks.asn_number = sample.snapshot_asn
WHERE sample.nth <= 5
ORDER BY sample.starttime;

\echo 'Sessions by country at the time of the attack: the ten with the most sessions'
SELECT
    snapshot_country AS country,
    count(*) AS sessions,
    count(DISTINCT ip) AS addresses,
    count(DISTINCT snapshot_asn) AS networks
FROM sessions
WHERE snapshot_country IS NOT NULL
GROUP BY snapshot_country
ORDER BY sessions DESC, country
LIMIT 10;

\echo 'Networks with the most sessions, from asn_inventory; this query reads no session table'
SELECT
    asn_number AS asn,
    pg_temp.shortened(organization_name, 40) AS organization,
    asn_type AS type,
    unique_ip_count AS addresses,
    total_session_count AS sessions,
    to_char(first_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS first_seen,
    to_char(last_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS last_seen
FROM asn_inventory
ORDER BY total_session_count DESC, asn_number
LIMIT 10;

-- Finds a password that was used from many networks, but with one user name only: so it probably belongs to one
-- campaign. If the log has no such password, the variable stays unset.
SELECT (
    SELECT auth.password
    FROM auth
    JOIN sessions ON sessions.id = auth.session
    GROUP BY auth.password
    ORDER BY count(DISTINCT sessions.snapshot_asn) >= 3 AND count(DISTINCT auth.username) = 1 AND length(auth.password) >= 8 DESC,
             count(DISTINCT sessions.snapshot_asn) DESC, count(*) DESC, auth.password
    LIMIT 1
) AS password
\gset
\if :{?password}
\echo 'Networks that host one campaign: all sessions that used the password' :'password'
SELECT
    networks.asn_number AS asn,
    pg_temp.shortened(networks.organization_name, 40) AS organization,
    networks.asn_type AS type,
    string_agg(DISTINCT sessions.snapshot_country, ' ') AS countries,
    count(DISTINCT sessions.ip) AS addresses,
    count(DISTINCT sessions.id) AS sessions
FROM auth
JOIN sessions ON sessions.id = auth.session
JOIN asn_inventory AS networks ON networks.asn_number = sessions.snapshot_asn
WHERE auth.password = :'password'
GROUP BY networks.asn_number
ORDER BY sessions DESC, asn
LIMIT 12;
\endif

SELECT
    :'asked' = 'stand-ins' AS moved,
    'cymru' = ANY (string_to_array(:'sources', ',')) AS cymru,
    string_to_array(:'sources', ',') && '{greynoise,dshield,spur}' AS about_addresses,
    'spur' = ANY (string_to_array(:'sources', ',')) AS types
\gset
\if :moved
\echo 'An address that moved to another network between two versions of the ASN file (ip_asn_history)'
\echo 'sessions_then is the number of sessions while the address was in that network; the snapshot columns of these sessions did not change.'
SELECT
    history.ip_address,
    history.asn_number AS asn,
    networks.organization_name AS organization,
    history.verification_source AS source,
    (
        SELECT count(*)
        FROM sessions
        WHERE session_address(sessions.ip) = history.ip_address
          AND sessions.snapshot_asn = history.asn_number
    ) AS sessions_then,
    CASE WHEN addresses.current_asn = history.asn_number THEN 'now' ELSE '' END AS current
FROM ip_asn_history AS history
JOIN asn_inventory AS networks USING (asn_number)
JOIN ip_inventory AS addresses USING (ip_address)
WHERE history.ip_address IN (
    SELECT ip_address
    FROM ip_asn_history
    GROUP BY ip_address
    HAVING count(DISTINCT asn_number) > 1
)
ORDER BY history.ip_address, history.observed_at;
\endif

\echo 'Sessions without a country, by reason'
SELECT
    CASE
        WHEN address.parsed IS NULL THEN 'not an address'
        WHEN is_bogon(address.parsed) THEN 'not a public source: ' || bogon_reason(address.parsed)
        ELSE 'public, but not in the City database'
    END AS reason,
    count(*) AS sessions,
    count(DISTINCT sessions.ip) AS addresses,
    pg_temp.shortened(min(quote_literal(sessions.ip)), 32) AS example
FROM sessions
CROSS JOIN LATERAL (SELECT session_address(sessions.ip) AS parsed) AS address
WHERE sessions.snapshot_country IS NULL
GROUP BY reason
ORDER BY sessions DESC, reason;

\if :cymru
\echo 'Lookups at Team Cymru for the' :before 'addresses that have no network in the ASN file'
\echo 'One lookup serves all addresses of a /24 or /48. Each network is looked up too. "not announced" are addresses that no network announces.'
SELECT
    provider.requests,
    provider.lookups AS "lookups (/24, /48, network)",
    provider.answers AS "answers with data",
    provider.absent AS "not announced",
    queue.addresses AS "still waiting",
    queue.dead AS "dead letters",
    worker.state AS worker,
    worker.errors AS "failed steps"
FROM provider_status() AS provider
JOIN queue_status AS queue USING (provider)
LEFT JOIN worker_status() AS worker ON worker.role = 'worker' AND worker.database = current_database()
WHERE provider.provider = 'cymru';

\echo 'Networks: the organisation as the ASN file names it, and the registry and country of registration from Team Cymru'
\echo 'name_from and country_from are the sources of the organisation and of the country.'
SELECT
    asn_number AS asn,
    pg_temp.shortened(organization_name, 30) AS organization,
    enrichment #>> '{provenance,organization_name}' AS name_from,
    pg_temp.shortened(as_name, 30) AS as_name,
    rir_registry AS registry,
    organization_country AS country,
    enrichment #>> '{provenance,organization_country}' AS country_from,
    allocated_on
FROM asn_inventory
ORDER BY total_session_count DESC, asn_number
LIMIT 8;

\echo 'Sample of sessions from these addresses: stored without a network, and completed by the worker after the answer of Team Cymru'
WITH completed AS (
    SELECT sessions.*, row_number() OVER (PARTITION BY sessions.snapshot_asn ORDER BY md5(sessions.id)) AS nth
    FROM sessions
    JOIN ip_inventory AS addresses ON addresses.ip_address = session_address(sessions.ip)
    WHERE addresses.enrichment #>> '{cymru,asn}' = sessions.snapshot_asn::text
)
SELECT
    trim(completed.id) AS session,
    to_char(completed.starttime, 'YYYY-MM-DD HH24:MI') AS started,
    completed.ip,
    completed.snapshot_country AS country,
    completed.snapshot_asn AS asn,
    pg_temp.shortened(networks.organization_name, 30) AS organization,
    networks.rir_registry AS registry
FROM completed
JOIN asn_inventory AS networks ON networks.asn_number = completed.snapshot_asn
WHERE completed.nth = 1
ORDER BY md5(completed.id)
LIMIT 5;
\endif

\if :about_addresses
\echo 'Addresses by the answer of GreyNoise: scanners of the whole Internet, and others'
\echo 'reports is the number of reports of these addresses at DShield.'
SELECT
    CASE
        WHEN is_scanner THEN 'scanner: ' || coalesce(enrichment #>> '{greynoise,classification}', '-')
        WHEN enrichment #>> '{greynoise,riot}' = 'true' THEN 'common service'
        WHEN enrichment -> '_meta' ? 'greynoise' THEN 'not seen scanning'
        WHEN may_be_asked('greynoise', ip_address) THEN 'not looked up'
        ELSE 'not looked up: IPv6'
    END AS greynoise,
    count(*) AS addresses,
    sum(session_count) AS sessions,
    sum((enrichment #>> '{dshield,ip,count}')::bigint) AS reports,
    array_to_string((array_agg(DISTINCT name) FILTER (WHERE name <> 'unknown'))[:4], ', ') AS some_names
FROM ip_inventory
CROSS JOIN LATERAL (SELECT enrichment #>> '{greynoise,name}' AS name) AS said
WHERE NOT is_bogon
GROUP BY 1
ORDER BY sessions DESC, 1;

\if :types
\echo 'Sessions by type of the address, from SPUR (snapshot_ip_type); - is unknown'
SELECT
    coalesce(snapshot_ip_type, '-') AS type,
    count(*) AS sessions,
    count(DISTINCT ip) AS addresses,
    count(*) FILTER (WHERE EXISTS (SELECT FROM input WHERE input.session = sessions.id)) AS ran_commands,
    count(*) FILTER (WHERE EXISTS (SELECT FROM downloads WHERE downloads.session = sessions.id)) AS fetched_files
FROM sessions
GROUP BY snapshot_ip_type
ORDER BY sessions DESC;

\echo 'Sessions through a VPN, Tor or a proxy that ran commands: the busiest session of each address'
WITH ran AS (
    SELECT
        sessions.*,
        commands.*,
        row_number() OVER (PARTITION BY sessions.ip ORDER BY commands.number DESC, sessions.id) AS nth
    FROM sessions
    CROSS JOIN LATERAL (
        SELECT count(*) AS number, (array_agg(input ORDER BY "timestamp" DESC))[1] AS last
        FROM input
        WHERE input.session = sessions.id
    ) AS commands
    WHERE snapshot_ip_type IN ('VPN', 'TOR', 'PROXY') AND commands.number > 0
)
SELECT
    trim(ran.id) AS session,
    ran.ip,
    ran.snapshot_country AS country,
    ran.snapshot_ip_type AS type,
    jsonb_path_query_first(addresses.enrichment, '$.spur.tunnels[*].operator') #>> '{}' AS operator,
    addresses.enrichment #>> '{greynoise,classification}' AS greynoise,
    ran.number AS commands,
    pg_temp.shortened(ran.last, 36) AS last_command
FROM ran
JOIN ip_inventory AS addresses ON addresses.ip_address = session_address(ran.ip)
WHERE ran.nth = 1
ORDER BY ran.number DESC, ran.id
LIMIT 6;
\endif

\echo 'Requests to each provider, and the rest of the daily quota'
\echo '"negative" answers say that the provider has no data about the address. notice is information that the provider added to its last answer.'
SELECT
    provider,
    requests,
    answers,
    absent AS negative,
    queue.addresses AS waiting,
    quota AS daily_quota,
    quota_left AS left_today,
    coalesce(blocked_reason, last_error, notice) AS notice
FROM provider_status
JOIN queue_status AS queue USING (provider)
WHERE provider = ANY (string_to_array(:'sources', ','));
\endif

SELECT count(*) FILTER (WHERE ip <> '') AS invalid, count(*) FILTER (WHERE ip = '') AS empty
FROM sessions WHERE session_address(ip) IS NULL
\gset
\echo 'Counters of the whole server since its start (enrich_stats)'
\echo 'total_ips counts an address once in each transaction that looked it up; each *_hits column is the number of addresses found in that place. errors is the number of invalid addresses and internal errors.'
\echo 'This log has' :invalid 'sessions whose address is invalid, and' :empty 'with an empty address, which is not an error; see "Sessions without a country".'
\x on
SELECT * FROM enrich_stats();
\x off
\echo 'The mmdb files in service. node_count is the number of nodes in the search tree of the file, which grows with the number of prefixes.'
SELECT kind, database_type, build_time, node_count, last_error FROM mmdb_status();
