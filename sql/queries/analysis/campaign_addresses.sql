-- Returns the addresses of those sessions of a table that meet a condition. Each row has the network and country of an
-- address at the time of the last session from this address. Each row also has the present network and country of the
-- address. Runs with the rights of the caller.
--
-- The sessions of an address are grouped by the values of their snapshot columns. The values of the last session come
-- from the group that contains this session. The caller's condition is on lines of its own in this statement, because
-- it may end in an SQL comment.
-- $1 timestamptz: earliest time of a session, or null
WITH snapshot AS MATERIALIZED (
    SELECT @address@ AS ip_address, s.snapshot_asn AS asn_number,
           s.snapshot_country::pg_catalog.text AS country, s.snapshot_ip_type::pg_catalog.text AS ip_type,
           pg_catalog.count(*) AS sessions,
           pg_catalog.min(@seen@) AS first_seen, pg_catalog.max(@seen@) AS last_seen
    FROM @table@ s
    WHERE @period@ AND (
@condition@
    )
    GROUP BY 1, 2, 3, 4
), last AS (
    SELECT DISTINCT ON (p.ip_address) p.ip_address, p.asn_number, p.country
    FROM snapshot p
    WHERE p.ip_address OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet
    ORDER BY p.ip_address, p.last_seen DESC NULLS LAST, p.sessions DESC, p.asn_number, p.country, p.ip_type
), address AS (
    SELECT p.ip_address, pg_catalog.sum(p.sessions)::bigint AS sessions,
           pg_catalog.min(p.first_seen) AS first_seen, pg_catalog.max(p.last_seen) AS last_seen,
           pg_catalog.array_agg(p.ip_type) FILTER (WHERE p.ip_type IS NOT NULL) AS ip_types
    FROM snapshot p
    WHERE p.ip_address OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet
    GROUP BY 1
)
SELECT c.ip_address, c.sessions, c.first_seen, c.last_seen, c.asn_then, @organization_then@, c.country_then,
       c.asn_now, @organization_now@, c.country_now, @change@,
       -- Most addresses have no type.
       CASE WHEN pg_catalog.cardinality(pg_catalog.array_cat(c.ip_types, c.ip_types_now)) OPERATOR(pg_catalog.>) 0
           THEN ARRAY(SELECT DISTINCT u.ip_type COLLATE pg_catalog."C"
                      FROM pg_catalog.unnest(pg_catalog.array_cat(c.ip_types, c.ip_types_now)) u(ip_type)
                      ORDER BY 1)
           ELSE '{}'::pg_catalog.text[] END AS ip_types,
       c.is_scanner
FROM (
    SELECT a.ip_address, a.sessions, a.first_seen, a.last_seen, l.asn_number AS asn_then, l.country AS country_then,
           a.ip_types, @now@
    FROM address a
    JOIN last l ON l.ip_address OPERATOR(pg_catalog.=) a.ip_address
    @address_inventory@
) c
@inventories@
ORDER BY c.sessions DESC, c.ip_address
