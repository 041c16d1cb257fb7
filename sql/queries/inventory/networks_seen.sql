-- Appends first_seen and last_seen of networks to the pending counts. Skips a network if the new times would change
-- neither its first_seen nor its last_seen.
-- $1 bigint[]: ASN of each network
-- $2 timestamptz[]: first_seen of each network
-- $3 timestamptz[]: last_seen of each network
INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
SELECT a.asn_number, 0, 0, g.first_seen, g.last_seen
FROM unnest($1, $2, $3) AS g(asn, first_seen, last_seen)
JOIN @extschema@.asn_inventory a ON a.asn_number = g.asn
WHERE a.first_seen IS DISTINCT FROM LEAST(@extschema@.session_time(a.first_seen), g.first_seen)
   OR a.last_seen IS DISTINCT FROM GREATEST(@extschema@.session_time(a.last_seen), g.last_seen)
