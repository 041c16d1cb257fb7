-- Requests of a day that are about to be sent.
-- $1 provider text, $2 day as days since 2000 integer, $3 requests bigint, $4 spent by the whole cluster bigint
INSERT INTO @extschema@.provider_quota AS q (provider, day, requests, cluster_spent)
VALUES ($1, date '2000-01-01' + $2, $3, $4)
ON CONFLICT (provider, day) DO UPDATE
SET requests = q.requests + excluded.requests, cluster_spent = GREATEST(q.cluster_spent, excluded.cluster_spent)
WHERE excluded.requests > 0 OR excluded.cluster_spent > q.cluster_spent
