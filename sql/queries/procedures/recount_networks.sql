-- Computes the counts of each network again, from the addresses that are now in the network. If a result differs from
-- the sum of the stored and pending counts, appends the difference as a pending count. Returns the number of networks
-- with a difference.
WITH actual AS (
    SELECT i.current_asn, count(*) AS addresses, sum(i.session_count)::bigint AS sessions,
           min(@extschema@.session_time(i.first_seen)) AS first_seen, max(@extschema@.session_time(i.last_seen)) AS last_seen
    FROM @extschema@.ip_inventory i
    WHERE i.current_asn IS NOT NULL
    GROUP BY i.current_asn
), pending AS (
    SELECT d.asn_number, sum(d.addresses)::bigint AS addresses, sum(d.sessions)::bigint AS sessions,
           min(@extschema@.session_time(d.first_seen)) AS first_seen, max(@extschema@.session_time(d.last_seen)) AS last_seen
    FROM @extschema@.network_delta d
    GROUP BY d.asn_number
), compared AS (
    SELECT n.asn_number,
           COALESCE(a.addresses, 0) - n.unique_ip_count - COALESCE(p.addresses, 0) AS addresses,
           COALESCE(a.sessions, 0) - n.total_session_count - COALESCE(p.sessions, 0) AS sessions,
           LEAST(@extschema@.session_time(n.first_seen), p.first_seen) AS believed_first,
           GREATEST(@extschema@.session_time(n.last_seen), p.last_seen) AS believed_last,
           n.first_seen IS DISTINCT FROM @extschema@.session_time(n.first_seen)
               OR n.last_seen IS DISTINCT FROM @extschema@.session_time(n.last_seen) AS has_false_times,
           a.first_seen, a.last_seen
    FROM @extschema@.asn_inventory n
    LEFT JOIN actual a ON a.current_asn = n.asn_number
    LEFT JOIN pending p ON p.asn_number = n.asn_number
), corrected AS (
    INSERT INTO @extschema@.network_delta (asn_number, addresses, sessions, first_seen, last_seen)
    SELECT c.asn_number, c.addresses, c.sessions, c.first_seen, c.last_seen
    FROM compared c
    WHERE c.addresses <> 0 OR c.sessions <> 0
       OR c.believed_first IS DISTINCT FROM LEAST(c.believed_first, c.first_seen)
       OR c.believed_last IS DISTINCT FROM GREATEST(c.believed_last, c.last_seen)
       OR c.has_false_times
    RETURNING 1
)
SELECT count(*) FROM corrected
