-- How many networks addresses are in.
SELECT count(*)
FROM (SELECT FROM @extschema@.ip_inventory i WHERE i.current_asn IS NOT NULL GROUP BY i.current_asn) n
