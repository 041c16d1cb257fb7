-- Networks that edits of known_networks concern, in order, after $1.
-- $1 bigint: asn
-- $2 bigint: most
SELECT DISTINCT r.asn_number
FROM @extschema@.network_reclassification r
WHERE r.asn_number > $1
ORDER BY r.asn_number
LIMIT $2
