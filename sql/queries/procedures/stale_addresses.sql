-- Addresses whose answer from a source is past its lifetime, the most active first.
-- $1 text: source
-- $2 bigint: most
SELECT i.ip_address
FROM @extschema@.ip_inventory i
WHERE NOT i.is_bogon AND @extschema@.is_source_stale(i.enrichment, i.current_asn, $1)
ORDER BY i.session_count DESC, i.ip_address
LIMIT $2
