-- Returns addresses greater than $1 with their documents, in ascending order.
-- $1 inet: last address that was read, or null at the start
-- $2 bigint: maximum number of addresses to return
SELECT i.ip_address, i.current_asn, i.enrichment, @extschema@.session_time(i.first_seen), @extschema@.session_time(i.last_seen)
FROM @extschema@.ip_inventory i
WHERE i.ip_address > COALESCE($1, '0.0.0.0/0')
ORDER BY i.ip_address
LIMIT $2
