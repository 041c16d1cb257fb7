-- The networks that this fold will add to, locked in order before any address is.
-- $1 ip inet[], $2 further asn bigint[]
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.asn_number IN (
    SELECT i.current_asn FROM @extschema@.ip_inventory i WHERE i.ip_address = ANY ($1)
    UNION
    SELECT d.asn_number FROM @extschema@.network_delta d
    UNION
    SELECT n.asn_number FROM unnest($2) AS n(asn_number))
ORDER BY a.asn_number
FOR NO KEY UPDATE
