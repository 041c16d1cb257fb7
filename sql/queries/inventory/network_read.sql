-- ensure_asn_inventory: the row as it is now.
-- $1 bigint: asn
SELECT * FROM @extschema@.asn_inventory WHERE asn_number = $1
