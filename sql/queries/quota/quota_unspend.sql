-- Decreases the spent quota of a day by requests that were counted before, but were not sent.
-- $1 text: name of the provider
-- $2 integer: day, counted from 2000-01-01
-- $3 bigint: number of requests to subtract
UPDATE @extschema@.provider_quota
SET requests = requests - $3, cluster_spent = cluster_spent - $3
WHERE provider = $1 AND day = date '2000-01-01' + $2
