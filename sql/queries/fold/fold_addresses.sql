-- Adds numbers of sessions to the stored counts of addresses that the caller has locked. Appends a pending count for
-- each network of these addresses.
-- $1 inet[]: addresses
-- $2 bigint[]: number of sessions to add to each address
-- $3 timestamptz[]: first_seen of each address
-- $4 timestamptz[]: last_seen of each address
WITH updated AS (
    UPDATE @extschema@.ip_inventory i
    SET session_count = i.session_count + g.sessions,
        first_seen = LEAST(@extschema@.session_time(i.first_seen), g.first_seen),
        last_seen = GREATEST(@extschema@.session_time(i.last_seen), g.last_seen),
        updated_at = now()
    FROM unnest($1, $2, $3, $4) AS g(ip, sessions, first_seen, last_seen)
    WHERE i.ip_address = g.ip
    RETURNING i.ip_address, i.current_asn, g.sessions, g.first_seen, g.last_seen
), counted AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT u.current_asn, 0, sum(u.sessions), min(u.first_seen), max(u.last_seen)
    FROM updated u
    WHERE u.current_asn IS NOT NULL
    GROUP BY u.current_asn
)
SELECT count(*) FROM updated u
