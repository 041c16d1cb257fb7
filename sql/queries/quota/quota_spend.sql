-- Increases the spent quota of a day by the requests that the worker is about to send.
-- $1 text: name of the provider
-- $2 integer: day, counted from 2000-01-01
-- $3 bigint: number of requests to add
-- $4 bigint: number of requests that the whole cluster has sent on this day
INSERT INTO @extschema@.provider_quota AS q (provider, day, requests, cluster_spent)
VALUES ($1, date '2000-01-01' + $2, $3, $4)
ON CONFLICT (provider, day) DO UPDATE
SET requests = q.requests + excluded.requests, cluster_spent = GREATEST(q.cluster_spent, excluded.cluster_spent)
WHERE excluded.requests > 0 OR excluded.cluster_spent > q.cluster_spent
