-- Locks the networks to which a fold adds counts, in the order of their ASNs. Skips networks that another transaction has locked.
-- Returns all networks to which the fold adds counts, and for each network whether this statement has locked it.
-- $1 inet[]: addresses
WITH wanted AS MATERIALIZED (
    SELECT a.asn_number
    FROM @extschema@.asn_inventory a
    WHERE a.asn_number IN (
        SELECT i.current_asn FROM @extschema@.ip_inventory i WHERE i.ip_address = ANY ($1)
        UNION
        SELECT d.asn_number FROM @extschema@.network_delta d)
), locked AS MATERIALIZED (
    SELECT a.asn_number
    FROM @extschema@.asn_inventory a
    WHERE a.asn_number IN (SELECT w.asn_number FROM wanted w)
    ORDER BY a.asn_number
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT w.asn_number, l.asn_number IS NOT NULL
FROM wanted w
LEFT JOIN locked l ON l.asn_number = w.asn_number
