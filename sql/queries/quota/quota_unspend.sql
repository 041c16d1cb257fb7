-- Subtracts requests that were not sent after all.
-- $1 text: provider
-- $2 integer: day as days since 2000
-- $3 bigint: requests
UPDATE @extschema@.provider_quota
SET requests = requests - $3, cluster_spent = cluster_spent - $3
WHERE provider = $1 AND day = date '2000-01-01' + $2
