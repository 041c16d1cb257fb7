-- Returns the current row of a network, for ensure_asn_inventory.
-- $1 bigint: asn
SELECT * FROM @extschema@.asn_inventory WHERE asn_number = $1
