-- Jobs that were answered. A job without a waiting address is done. Another one falls due again: at once where a network
-- smaller than the block answered for some of its addresses, after a pause where another transaction holds an address.
-- $1 provider text, $2 question cidr[], $3 those among them with such an address cidr[], $4 pause in seconds float8
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
SET leased_by = NULL, due_at = now() + CASE WHEN j.question = ANY ($3) THEN make_interval(secs => $4) ELSE '0' END
FROM waiting w
WHERE j.provider = $1 AND j.question = w.question
