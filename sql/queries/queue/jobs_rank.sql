-- Raises the priority of the jobs that look up these addresses at these providers. Never lowers a priority. Skips jobs
-- that another transaction has locked, because the worker is sending requests for them or storing their answers.
-- $1 text[]: names of the providers
-- $2 inet[]: addresses
-- $3 bigint[]: priority for the jobs of each address
WITH ranked AS MATERIALIZED (
    SELECT p.provider, l.lookup_key, max(g.priority)::integer AS priority
    FROM unnest($2, $3) AS g(ip, priority)
    CROSS JOIN unnest($1) AS p(provider)
    CROSS JOIN LATERAL @extschema@.lookup_key_of(p.provider, g.ip) l
    GROUP BY 1, 2
), free AS MATERIALIZED (
    SELECT j.provider, j.lookup_key, r.priority
    FROM @extschema@.enrichment_job j
    JOIN ranked r ON j.provider = r.provider AND j.lookup_key = r.lookup_key AND j.priority < r.priority
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE @extschema@.enrichment_job j
SET priority = f.priority
FROM free f
WHERE j.provider = f.provider AND j.lookup_key = f.lookup_key
