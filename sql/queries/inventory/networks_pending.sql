-- Returns networks whose entry in known_networks was edited, if the edit has not been applied to the network yet.
-- Returns only ASNs greater than $1, in ascending order.
-- $1 bigint: last ASN of the previous batch, or 0
-- $2 bigint: maximum number of networks to return
SELECT DISTINCT r.asn_number
FROM @extschema@.network_reclassification r
WHERE r.asn_number > $1
ORDER BY r.asn_number
LIMIT $2
