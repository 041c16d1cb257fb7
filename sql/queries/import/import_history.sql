-- Adds observations to the history. An observation says that an address was in a network at a time. If the history
-- already has the same observation from another source, the observation is not added. For each such observation,
-- returns a row with its index in the arguments, and the source in the history. If there is none, returns one row
-- without them. Each row also has the total number of added observations.
-- $1 inet[]: address of each observation
-- $2 bigint[]: network (ASN) of each observation
-- $3 timestamptz[]: time of each observation
-- $4 text[]: source of each observation
-- $5 bigint[]: index of each observation in the arguments
WITH given AS MATERIALIZED (
    SELECT g.ip, g.asn, g.observed_at, g.source, g.number
    FROM unnest($1, $2, $3, $4, $5) AS g(ip, asn, observed_at, source, number)
), first AS MATERIALIZED (
    SELECT DISTINCT ON (g.ip, g.asn, g.observed_at) g.ip, g.asn, g.observed_at, g.source
    FROM given g
    ORDER BY g.ip, g.asn, g.observed_at, g.number
), added AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT f.ip, f.asn, f.observed_at, f.source
    FROM first f
    ORDER BY f.ip, f.asn, f.observed_at
    ON CONFLICT DO NOTHING
    RETURNING 1
), other AS (
    SELECT g.number, COALESCE(h.verification_source, f.source) AS source
    FROM given g
    JOIN first f ON f.ip = g.ip AND f.asn = g.asn AND f.observed_at = g.observed_at
    LEFT JOIN @extschema@.ip_asn_history h
        ON h.ip_address = g.ip AND h.asn_number = g.asn AND h.observed_at = g.observed_at
    WHERE COALESCE(h.verification_source, f.source) <> g.source
)
SELECT (SELECT count(*) FROM added), o.number, o.source
FROM (SELECT) one
LEFT JOIN other o ON true
