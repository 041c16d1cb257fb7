-- Returns how many requests the whole cluster has sent to each provider on a day, as far as this database knows.
-- $1 integer: day, counted from 2000-01-01
SELECT q.provider, $1, q.cluster_spent
FROM @extschema@.provider_quota q
WHERE q.day = date '2000-01-01' + $1
