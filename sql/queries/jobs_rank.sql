-- Jobs of these providers on behalf of addresses with active sessions become more urgent.
-- $1 provider text[], $2 ip inet[], $3 priority bigint[]
UPDATE @extschema@.enrichment_job j
SET priority = g.priority
FROM (
    SELECT p.provider, @extschema@.question_of(p.provider, g.ip) AS question, max(g.priority)::integer AS priority
    FROM unnest($2, $3) AS g(ip, priority)
    CROSS JOIN unnest($1) AS p(provider)
    GROUP BY 1, 2) g
WHERE j.provider = g.provider AND j.question = g.question AND j.priority < g.priority
