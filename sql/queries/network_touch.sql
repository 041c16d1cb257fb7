-- ensure_asn_inventory: the network was seen now. No row where that is known already.
-- $1 asn bigint
UPDATE @extschema@.asn_inventory
SET first_seen = LEAST(first_seen, now()), last_seen = GREATEST(last_seen, now()), updated_at = now()
WHERE asn_number = $1
  AND (first_seen IS NULL OR first_seen > now() OR last_seen IS NULL OR last_seen < now())
RETURNING asn_number, organization_country, rir_registry, organization_name
