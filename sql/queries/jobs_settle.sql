-- Jobs that were answered. Where nobody waits any more they are done. The others fall due again: at once where a network
-- smaller than the block answered for some of its addresses, after a growing pause where sessions could not be
-- completed. That is tried for some two hours.
-- $1 provider text, $2 question cidr[], $3 those among them whose sessions could not be completed cidr[]
WITH left_alone AS (
    DELETE FROM @extschema@.job_address a
    USING @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.question = ANY ($3) AND j.attempts >= 30
      AND a.provider = $1 AND a.question = j.question
    RETURNING a.ip_address, a.question
), waiting AS (
    SELECT DISTINCT a.question
    FROM @extschema@.job_address a
    WHERE a.provider = $1 AND a.question = ANY ($2)
      AND NOT EXISTS (SELECT FROM left_alone l WHERE l.question = a.question)
), done AS (
    DELETE FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.question = ANY ($2)
      AND NOT EXISTS (SELECT FROM waiting w WHERE w.question = j.question)
)
UPDATE @extschema@.enrichment_job j
SET leased_by = NULL,
    attempts = j.attempts + (j.question = ANY ($3))::integer,
    due_at = now() + CASE WHEN j.question = ANY ($3) THEN make_interval(secs => LEAST(2 ^ j.attempts, 300)) ELSE '0' END
FROM waiting w
WHERE j.provider = $1 AND j.question = w.question
