-- Jobs of these providers on behalf of addresses with active sessions become more urgent. A job that somebody has locked is
-- being asked or answered.
-- $1 provider text[], $2 ip inet[], $3 priority bigint[]
WITH ranked AS MATERIALIZED (
    SELECT p.provider, @extschema@.question_of(p.provider, g.ip) AS question, max(g.priority)::integer AS priority
    FROM unnest($2, $3) AS g(ip, priority)
    CROSS JOIN unnest($1) AS p(provider)
    GROUP BY 1, 2
), free AS MATERIALIZED (
    SELECT j.provider, j.question, r.priority
    FROM @extschema@.enrichment_job j
    JOIN ranked r ON j.provider = r.provider AND j.question = r.question AND j.priority < r.priority
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE @extschema@.enrichment_job j
SET priority = f.priority
FROM free f
WHERE j.provider = f.provider AND j.question = f.question
