-- Returns the networks that have a row.
-- $1 bigint[]: ASNs of the networks
SELECT a.asn_number FROM @extschema@.asn_inventory a WHERE a.asn_number = ANY ($1)
