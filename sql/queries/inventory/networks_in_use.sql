-- Returns the number of networks that have addresses. To find out whether a network has addresses, adds the pending
-- counts to the stored count.
SELECT count(*)
FROM @extschema@.asn_inventory a
LEFT JOIN (
    SELECT d.asn_number, sum(d.addresses) AS addresses
    FROM @extschema@.network_delta d
    GROUP BY d.asn_number) p ON p.asn_number = a.asn_number
WHERE a.unique_ip_count + COALESCE(p.addresses, 0) > 0
