-- For ensure_asn_inventory: returns the current row.
-- $1 bigint: asn
SELECT * FROM @extschema@.asn_inventory WHERE asn_number = $1
