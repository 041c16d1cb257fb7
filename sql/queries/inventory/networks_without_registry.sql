-- Returns networks without a registry. Returns only ASNs greater than $1, in ascending order.
-- $1 bigint: last ASN of the previous batch, or 0
-- $2 bigint: maximum number of networks to return
SELECT a.asn_number
FROM @extschema@.asn_inventory a
WHERE a.rir_registry IS NULL AND a.asn_number > $1
ORDER BY a.asn_number
LIMIT $2
