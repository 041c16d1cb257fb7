-- Networks that edits of known_networks concern, in order, behind a number.
-- $1 asn bigint, $2 how many bigint
SELECT DISTINCT r.asn_number
FROM @extschema@.network_reclassification r
WHERE r.asn_number > $1
ORDER BY r.asn_number
LIMIT $2
