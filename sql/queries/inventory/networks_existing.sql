-- Returns the networks that have a row.
-- $1 bigint[]: asn
SELECT a.asn_number FROM @extschema@.asn_inventory a WHERE a.asn_number = ANY ($1)
