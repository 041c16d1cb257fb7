-- Forgets an erasure that has ended without an error, and earlier calls that did not end, if this erasure has done their work.
-- $1 text: name of the procedure
-- $2 oid: OID of the table that the procedure processes, or 0
-- $3 inet: address that is erased, or null if addresses expire
-- $4 timestamptz: addresses without a session since this time are erased, or null if one address is erased
DELETE FROM @extschema@.unfinished_erasure u
WHERE u.procedure = $1
  AND u.address_digest IS NOT DISTINCT FROM sha256(uuid_send(u.id) || inet_send($3))
  AND ($2 = 0 OR u.relation = $2)
  AND u.expires_before IS NOT DISTINCT FROM LEAST(u.expires_before, $4)
