-- Suspends a role that owns session tables.
-- $1 text: name of the role that owns the tables
-- $2 text: reason for the suspension
INSERT INTO @extschema@.suspended_owner (owner, reason)
VALUES ($1::name, $2)
ON CONFLICT (owner) DO UPDATE SET suspended_at = now(), reason = excluded.reason
