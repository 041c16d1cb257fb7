-- Reads the rows of asn_inventory for the networks of the addresses in a list. Runs with the rights of the caller.
-- $1 bigint[]: ASNs of the networks
SELECT n.asn_number, n.organization_name, n.asn_type, n.rir_registry
FROM @extschema@.asn_inventory n
WHERE n.asn_number = ANY ($1)
