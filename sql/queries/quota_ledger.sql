-- The newest day of each provider, and what was spent of it as far as this database knows.
SELECT DISTINCT ON (q.provider) q.provider, (q.day - date '2000-01-01')::bigint, q.cluster_spent
FROM @extschema@.provider_quota q
ORDER BY q.provider, q.day DESC
