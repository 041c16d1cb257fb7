-- Number of networks.
SELECT count(*) FROM @extschema@.asn_inventory
