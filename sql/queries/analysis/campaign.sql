-- Returns the networks of those sessions of a table that meet a condition. The result has one row for each network,
-- with the countries and types that the network's addresses had at the time of the attack. Runs with the rights of the
-- caller.
--
-- Sessions are grouped by address first, so that addresses are counted without sorting all sessions. In joins, 0 stands
-- for an unknown network, because no network has the ASN 0. The caller's condition is on lines of its own in this
-- statement, because it may end in an SQL comment.
WITH address AS MATERIALIZED (
    SELECT s.snapshot_asn AS asn_number, s.snapshot_country::pg_catalog.text AS country,
           s.snapshot_ip_type::pg_catalog.text AS ip_type, @address@ AS ip_address,
           pg_catalog.count(*) AS sessions,
           pg_catalog.min(@seen@) AS first_seen, pg_catalog.max(@seen@) AS last_seen
    FROM @table@ s
    WHERE (
@condition@
    )
    GROUP BY 1, 2, 3, 4
), network AS (
    SELECT p.asn_number, pg_catalog.sum(p.sessions)::bigint AS sessions, pg_catalog.count(*) FILTER (WHERE p.ip_address OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet) AS addresses,
           pg_catalog.min(p.first_seen) AS first_seen, pg_catalog.max(p.last_seen) AS last_seen
    FROM (
        SELECT a.asn_number, a.ip_address, pg_catalog.sum(a.sessions) AS sessions,
               pg_catalog.min(a.first_seen) AS first_seen, pg_catalog.max(a.last_seen) AS last_seen
        FROM address a
        GROUP BY 1, 2) p
    GROUP BY 1
), country AS (
    SELECT g.asn_number, pg_catalog.array_agg(g.country ORDER BY g.sessions DESC, g.country COLLATE pg_catalog."C") AS countries
    FROM (
        SELECT COALESCE(a.asn_number, 0) AS asn_number, a.country, pg_catalog.sum(a.sessions) AS sessions
        FROM address a
        WHERE a.country IS NOT NULL
        GROUP BY 1, 2) g
    GROUP BY 1
), ip_type AS (
    SELECT g.asn_number, pg_catalog.array_agg(g.ip_type ORDER BY g.sessions DESC, g.ip_type COLLATE pg_catalog."C") AS ip_types
    FROM (
        SELECT COALESCE(a.asn_number, 0) AS asn_number, a.ip_type, pg_catalog.sum(a.sessions) AS sessions
        FROM address a
        WHERE a.ip_type IS NOT NULL
        GROUP BY 1, 2) g
    GROUP BY 1
)
SELECT c.asn_number, @names@, COALESCE(k.countries, '{}'::pg_catalog.text[]), COALESCE(t.ip_types, '{}'::pg_catalog.text[]),
       c.sessions, c.addresses, c.first_seen, c.last_seen
FROM network c
LEFT JOIN country k ON k.asn_number OPERATOR(pg_catalog.=) COALESCE(c.asn_number, 0)
LEFT JOIN ip_type t ON t.asn_number OPERATOR(pg_catalog.=) COALESCE(c.asn_number, 0)
@inventory@
ORDER BY c.sessions DESC, c.asn_number
