-- Networks that edits of known_networks concern, in order, behind a number.
-- $1 bigint: asn
-- $2 bigint: how many
SELECT DISTINCT r.asn_number
FROM @extschema@.network_reclassification r
WHERE r.asn_number > $1
ORDER BY r.asn_number
LIMIT $2
