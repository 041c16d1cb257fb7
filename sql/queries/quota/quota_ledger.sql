-- What was spent of a day, as far as this database knows.
-- $1 integer: day as days since 2000
SELECT q.provider, $1, q.cluster_spent
FROM @extschema@.provider_quota q
WHERE q.day = date '2000-01-01' + $1
