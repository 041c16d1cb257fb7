-- Extends the period from first_seen to last_seen of a network to the current time, for ensure_asn_inventory. Returns
-- no row if neither of the two columns changes.
-- $1 bigint: ASN of the network
UPDATE @extschema@.asn_inventory
SET first_seen = LEAST(@extschema@.session_time(first_seen), now()), last_seen = GREATEST(@extschema@.session_time(last_seen), now()),
    updated_at = now()
WHERE asn_number = $1
  AND (first_seen, last_seen)
      IS DISTINCT FROM (LEAST(@extschema@.session_time(first_seen), now()), GREATEST(@extschema@.session_time(last_seen), now()))
RETURNING asn_number, organization_country, rir_registry, organization_name
