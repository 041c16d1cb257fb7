-- Returns those of the given addresses that have no sessions and no pending counts. The caller has locked all given
-- addresses. If a session of such an address is stored meanwhile, the count of this session stays pending, because
-- folds skip the pending counts of a locked address.
-- $1 inet[]: addresses
SELECT i.ip_address
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
  AND i.session_count <= 0
  AND NOT EXISTS (SELECT FROM @extschema@.session_delta d WHERE d.ip_address = i.ip_address)
ORDER BY i.ip_address
