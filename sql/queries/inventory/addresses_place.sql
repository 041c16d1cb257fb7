-- Assigns each address without a network to the network that the document of the address names. Adds rows to the
-- history, and adds the addresses to the counts of the networks. Skips an address if another transaction has assigned
-- the address meanwhile. Finds and locks the rows one by one by the primary key, in the order of $1. The condition on
-- current_asn is not written as IS NULL. Otherwise the planner could use an index on networks, and would lock the rows
-- in another order.
-- $1 inet[]: addresses, in ascending order
-- $2 bigint[]: network (ASN) of each address
-- $3 text[]: source that names each network
WITH placed AS (
    UPDATE @extschema@.ip_inventory i
    SET current_asn = g.asn, updated_at = now()
    FROM unnest($1, $2, $3) AS g(ip, asn, source)
    WHERE i.ip_address = g.ip AND num_nulls(i.current_asn) = 1
    RETURNING i.ip_address, i.current_asn, g.source, i.session_count, i.first_seen, i.last_seen
), history AS (
    INSERT INTO @extschema@.ip_asn_history (ip_address, asn_number, observed_at, verification_source)
    SELECT p.ip_address, p.current_asn, clock_timestamp(), p.source
    FROM placed p
)
INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
SELECT p.current_asn, count(*), sum(p.session_count), min(p.first_seen), max(p.last_seen)
FROM placed p
GROUP BY p.current_asn
