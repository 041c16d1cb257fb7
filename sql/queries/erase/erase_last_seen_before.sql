-- Returns those of the given addresses whose last session with a known time was before $2. If no session of an address
-- has a known time, the time at which the address was stored counts. Leaves out addresses with pending counts.
-- $1 inet[]: addresses
-- $2 timestamptz: addresses with a session at or after this time are left out
SELECT i.ip_address
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
  AND COALESCE(@extschema@.session_time(i.last_seen), i.created_at) < $2
  AND NOT EXISTS (
      SELECT FROM @extschema@.session_delta d WHERE d.ip_address = i.ip_address AND d.sessions > 0)
