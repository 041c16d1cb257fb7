-- Returns the locked addresses that have no sessions and no pending counts. If a session of such an address is stored
-- later, its counts stay pending, because folds skip the counts of a locked address.
-- $1 inet[]: addresses
SELECT i.ip_address
FROM @extschema@.ip_inventory i
WHERE i.ip_address = ANY ($1)
  AND i.session_count <= 0
  AND NOT EXISTS (SELECT FROM @extschema@.session_delta d WHERE d.ip_address = i.ip_address)
ORDER BY i.ip_address
