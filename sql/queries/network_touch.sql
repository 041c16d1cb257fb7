-- ensure_asn_inventory: the network was seen now.
-- $1 asn bigint
UPDATE @extschema@.asn_inventory
SET first_seen = LEAST(first_seen, now()), last_seen = GREATEST(last_seen, now()), updated_at = now()
WHERE asn_number = $1
RETURNING *
