-- Jobs that were answered. Where nobody waits any more they are done. The others fall due again at once: a network smaller
-- than the block answered for some of its addresses.
-- $1 provider text, $2 question cidr[]
WITH waiting AS MATERIALIZED (
    SELECT j.question
    FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.question = ANY ($2)
      AND (SELECT true FROM @extschema@.job_address a
           WHERE a.provider = $1 AND a.question = j.question LIMIT 1)
), done AS (
    DELETE FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.question = ANY ($2) AND j.question <> ALL (ARRAY(SELECT w.question FROM waiting w))
)
UPDATE @extschema@.enrichment_job j
SET leased_by = NULL, due_at = now()
FROM waiting w
WHERE j.provider = $1 AND j.question = w.question
