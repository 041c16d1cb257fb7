-- Adds pending counts to networks that the caller has locked. Deletes the pending counts of networks that no longer exist. Returns
-- each updated network and a flag. The flag is true if the network existed before this transaction and its first_seen or last_seen
-- changed.
-- $1 bigint[]: ASNs of the networks
WITH taken AS (
    DELETE FROM @extschema@.network_delta d
    WHERE d.asn_number IN (SELECT l.asn_number FROM unnest($1) AS l(asn_number))
       OR NOT EXISTS (SELECT FROM @extschema@.asn_inventory a WHERE a.asn_number = d.asn_number)
    RETURNING d.asn_number, d.addresses, d.sessions, d.first_seen, d.last_seen
), summed AS (
    SELECT t.asn_number, sum(t.addresses)::bigint AS addresses, sum(t.sessions)::bigint AS sessions,
           min(@extschema@.session_time(t.first_seen)) AS first_seen,
           max(@extschema@.session_time(t.last_seen)) AS last_seen
    FROM taken t
    GROUP BY t.asn_number
), updated AS (
    UPDATE @extschema@.asn_inventory a
    SET unique_ip_count = a.unique_ip_count + s.addresses,
        total_session_count = a.total_session_count + s.sessions,
        first_seen = LEAST(@extschema@.session_time(a.first_seen), s.first_seen),
        last_seen = GREATEST(@extschema@.session_time(a.last_seen), s.last_seen),
        updated_at = now()
    FROM summed s
    JOIN @extschema@.asn_inventory before ON before.asn_number = s.asn_number
    WHERE a.asn_number = s.asn_number
    RETURNING a.asn_number, before.created_at <> now()
        AND (a.first_seen IS DISTINCT FROM before.first_seen OR a.last_seen IS DISTINCT FROM before.last_seen) AS moved
)
SELECT u.asn_number, u.moved FROM updated u
