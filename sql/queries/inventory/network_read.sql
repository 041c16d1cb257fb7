-- Returns the current row of a network, for ensure_asn_inventory.
-- $1 bigint: ASN of the network
SELECT * FROM @extschema@.asn_inventory WHERE asn_number = $1
