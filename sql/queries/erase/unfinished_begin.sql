-- Stores that an erasure has begun. Replaces an earlier call that did not end, if this erasure does its work.
-- $1 text: name of the procedure
-- $2 oid: OID of the table that the procedure processes, or 0
-- $3 inet: address that is erased, or null if addresses expire
-- $4 timestamptz: addresses without a session since this time are erased, or null if one address is erased
WITH repeated AS (
    DELETE FROM @extschema@.unfinished_erasure u
    WHERE u.procedure = $1
      AND u.address_digest IS NOT DISTINCT FROM sha256(uuid_send(u.id) || inet_send($3))
      AND ($2 = 0 OR u.relation = $2)
      AND u.expires_before IS NOT DISTINCT FROM LEAST(u.expires_before, $4)
), new AS (
    SELECT gen_random_uuid() AS id
)
INSERT INTO @extschema@.unfinished_erasure (id, procedure, relation, address_digest, expires_before)
SELECT n.id, $1, $2, sha256(uuid_send(n.id) || inet_send($3)), $4
FROM new n
