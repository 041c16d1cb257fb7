-- Returns the addresses whose answer from a source is stale (expired or missing). Addresses with the most sessions come
-- first.
-- $1 text: name of the source
-- $2 bigint: maximum number of addresses to return
SELECT i.ip_address
FROM @extschema@.ip_inventory i
LEFT JOIN @extschema@.asn_inventory n ON n.asn_number = i.current_asn
WHERE NOT i.is_bogon AND @extschema@.is_source_stale(
      i.enrichment, i.current_asn, $1, @extschema@.network_kind(n.asn_type, n.is_known_hosting, n.is_known_vpn))
ORDER BY i.session_count DESC, i.ip_address
LIMIT $2
