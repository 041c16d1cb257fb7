-- The demo runs this file when the day's quota of GreyNoise is spent. Prints the addresses that were looked up,
-- grouped by the rule that demo/run sets with set_session_priority().

\set QUIET 1
\pset footer off
\pset linestyle ascii
\pset border 1
SET search_path = public, cowrie_enrich;

\echo
\echo 'Addresses that were looked up at GreyNoise within the limited quota, by what their sessions did'
\echo 'The session priority prefers downloads, then commands.'
WITH addresses AS (
    SELECT
        session_address(sessions.ip) AS ip_address,
        bool_or(EXISTS (SELECT FROM downloads WHERE downloads.session = sessions.id)) AS fetched,
        bool_or(EXISTS (SELECT FROM input WHERE input.session = sessions.id)) AS typed
    FROM sessions
    GROUP BY 1
)
SELECT
    CASE WHEN fetched THEN 'fetched files' WHEN typed THEN 'ran commands' ELSE 'neither' END AS "their sessions",
    count(*) AS addresses,
    count(*) FILTER (WHERE enrichment -> '_meta' ? 'greynoise') AS "looked up today"
FROM addresses
JOIN ip_inventory USING (ip_address)
WHERE may_be_asked('greynoise', ip_address)
GROUP BY 1, fetched, typed
ORDER BY fetched DESC, typed DESC;
