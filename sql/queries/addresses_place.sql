-- Addresses without a network, in order, placed in the one that their document names, with what follows from that:
-- history, the network's count. One that got a network meanwhile is left alone.
-- $1 ip inet[], $2 asn bigint[], $3 source text[]
WITH locked AS (
    SELECT i.ip_address, g.asn, g.source
    FROM unnest($1, $2, $3) AS g(ip, asn, source)
    JOIN @extschema@.ip_inventory i ON i.ip_address = g.ip
    WHERE i.current_asn IS NULL
    ORDER BY i.ip_address
    FOR NO KEY UPDATE OF i
), placed AS (
    UPDATE @extschema@.ip_inventory i
    SET current_asn = l.asn, updated_at = now()
    FROM locked l
    WHERE i.ip_address = l.ip_address
    RETURNING i.ip_address, i.current_asn, l.source, i.session_count, i.first_seen, i.last_seen
), history AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT p.ip_address, p.current_asn, clock_timestamp(), p.source
    FROM placed p
)
INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
SELECT p.current_asn, count(*), sum(p.session_count), min(p.first_seen), max(p.last_seen)
FROM placed p
GROUP BY p.current_asn
