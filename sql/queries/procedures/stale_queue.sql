-- Queues lookups at a provider for addresses whose answer is stale (expired or missing). Chooses the addresses with the
-- most sessions. Leaves out lookups that are already queued or are dead letters.
-- $1 text: name of the provider
-- $2 bigint: maximum number of lookups to queue
INSERT INTO @extschema@.enrichment_request (ip_address, provider)
SELECT i.ip_address, $1
FROM @extschema@.ip_inventory i
LEFT JOIN @extschema@.asn_inventory n ON n.asn_number = i.current_asn
WHERE NOT i.is_bogon
  AND @extschema@.may_be_asked($1, i.ip_address)
  AND @extschema@.is_source_stale(
      i.enrichment, i.current_asn, $1, @extschema@.network_kind(n.asn_type, n.is_known_hosting, n.is_known_vpn))
  AND NOT EXISTS (
      SELECT FROM @extschema@.enrichment_request r WHERE r.provider = $1 AND r.ip_address = i.ip_address)
  AND NOT EXISTS (SELECT FROM @extschema@.job_address a WHERE a.provider = $1 AND a.ip_address = i.ip_address)
  AND NOT EXISTS (SELECT FROM @extschema@.dead_letter d WHERE d.provider = $1 AND d.ip_address = i.ip_address)
ORDER BY i.session_count DESC, i.ip_address
LIMIT $2
