-- Reads the rows of ip_inventory for the addresses of a list. Runs with the rights of the caller.
-- $1 inet[]: addresses
SELECT i.ip_address, i.current_asn, i.geo_country, i.ip_types, i.is_scanner, i.session_count, i.first_seen, i.last_seen,
       i.enrichment #>> '{_meta,maxmind,builds}'
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
