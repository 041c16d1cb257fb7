-- Sessions of a table that meet a condition, by network, country and type at the time of the attack. Runs with the
-- rights of the caller. Grouping by address first counts addresses without sorting all sessions. The condition is on
-- separate lines, because it may end in a comment.
SELECT c.asn_number, @names@, c.country, c.ip_type, c.sessions, c.addresses, c.first_seen, c.last_seen
FROM (
    SELECT a.asn_number, a.country, a.ip_type, pg_catalog.sum(a.sessions)::bigint AS sessions,
           pg_catalog.count(a.ip_address) AS addresses,
           pg_catalog.min(a.first_seen) AS first_seen, pg_catalog.max(a.last_seen) AS last_seen
    FROM (
        SELECT s.snapshot_asn AS asn_number, s.snapshot_country::pg_catalog.text AS country,
               s.snapshot_ip_type::pg_catalog.text AS ip_type, @schema@.session_address(s.@ip@::pg_catalog.@type@) AS ip_address,
               pg_catalog.count(*) AS sessions,
               pg_catalog.min(@seen@) AS first_seen, pg_catalog.max(@seen@) AS last_seen
        FROM @table@ s
        WHERE (
@condition@
        )
        GROUP BY 1, 2, 3, 4) a
    GROUP BY 1, 2, 3) c
@inventory@
ORDER BY c.sessions DESC, c.asn_number, c.country, c.ip_type
