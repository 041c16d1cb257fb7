-- How many networks there are.
SELECT count(*) FROM @extschema@.asn_inventory
