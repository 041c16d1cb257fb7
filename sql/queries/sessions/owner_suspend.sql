-- $1 text: owner
-- $2 text: reason
INSERT INTO @extschema@.suspended_owner (owner, reason)
VALUES ($1::name, $2)
ON CONFLICT (owner) DO UPDATE SET suspended_at = now(), reason = excluded.reason
