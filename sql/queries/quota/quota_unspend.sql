-- Requests that were not sent after all.
-- $1 provider text, $2 day as days since 2000 integer, $3 requests bigint
UPDATE @extschema@.provider_quota
SET requests = requests - $3, cluster_spent = cluster_spent - $3
WHERE provider = $1 AND day = date '2000-01-01' + $2
