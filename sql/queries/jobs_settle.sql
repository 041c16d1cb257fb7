-- Jobs that were answered. Where nobody waits any more they are done. The others fall due again: at once where a network
-- smaller than the block answered for some of its addresses, after a growing pause where sessions were locked. That is
-- tried for some two hours.
-- $1 provider text, $2 question cidr[], $3 those among them with locked sessions cidr[]
WITH mine AS MATERIALIZED (
    SELECT j.question, j.completions, j.question = ANY ($3) AS is_incomplete
    FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.question = ANY ($2)
), left_alone AS (
    DELETE FROM @extschema@.job_address a
    USING mine m
    WHERE m.is_incomplete AND m.completions >= 30 AND a.provider = $1 AND a.question = m.question
), waiting AS MATERIALIZED (
    SELECT m.question, m.completions, m.is_incomplete
    FROM mine m
    WHERE NOT (m.is_incomplete AND m.completions >= 30)
      AND (SELECT true FROM @extschema@.job_address a
           WHERE a.provider = $1 AND a.question = m.question LIMIT 1)
), done AS (
    DELETE FROM @extschema@.enrichment_job j
    WHERE j.provider = $1
      AND j.question = ANY (ARRAY(SELECT m.question FROM mine m EXCEPT SELECT w.question FROM waiting w))
)
UPDATE @extschema@.enrichment_job j
SET leased_by = NULL,
    completions = j.completions + w.is_incomplete::integer,
    due_at = now() + CASE WHEN w.is_incomplete THEN make_interval(secs => LEAST(2 ^ j.completions, 300)) ELSE '0' END
FROM waiting w
WHERE j.provider = $1 AND j.question = w.question
