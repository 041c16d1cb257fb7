-- Those of these addresses that still have sessions without a network in @table@.
-- $1 ip inet[]
SELECT DISTINCT @extschema@.session_address(s.@ip@)
FROM @table@ s
WHERE s.snapshot_asn IS NULL AND @extschema@.session_address(s.@ip@) = ANY ($1)
