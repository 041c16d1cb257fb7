-- Creates addresses in ascending order, with their history, and adds the addresses to the counts of their networks. If
-- another transaction is creating the same address, waits for this transaction and leaves its row unchanged.
-- $1 inet[]: addresses
-- $2 bigint[]: network (ASN) of each address
-- $3 jsonb[]: enrichment document of each address
-- $4 bigint[]: number of sessions of each address
-- $5 timestamptz[]: first_seen of each address
-- $6 timestamptz[]: last_seen of each address
-- $7 text: version of the layout of the documents
WITH created AS (
    INSERT INTO @extschema@.ip_inventory AS i (
        ip_address, current_asn, asn_last_verified, first_seen, last_seen, session_count,
        enrichment, enrichment_updated_at, enrichment_version)
    SELECT g.ip, g.asn, CASE WHEN g.asn IS NOT NULL THEN now() END, g.first_seen, g.last_seen, g.sessions,
           g.document, now(), $7
    FROM unnest($1, $2, $3, $4, $5, $6) AS g(ip, asn, document, sessions, first_seen, last_seen)
    ORDER BY g.ip
    ON CONFLICT (ip_address) DO NOTHING
    RETURNING i.ip_address, i.current_asn, i.first_seen, i.last_seen, i.session_count
), history AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT c.ip_address, c.current_asn, clock_timestamp(), 'maxmind'
    FROM created c
    WHERE c.current_asn IS NOT NULL
), counted AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT c.current_asn, count(*), sum(c.session_count), min(c.first_seen), max(c.last_seen)
    FROM created c
    WHERE c.current_asn IS NOT NULL
    GROUP BY c.current_asn
)
SELECT c.ip_address, c.current_asn FROM created c
