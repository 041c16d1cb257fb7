-- What was spent of a day, as far as this database knows.
-- $1 day as days since 2000 integer
SELECT q.provider, $1::bigint, q.cluster_spent
FROM @extschema@.provider_quota q
WHERE q.day = date '2000-01-01' + $1
