-- Deletes or updates jobs that got an answer. If no address waits for a job any longer, the job is deleted. Otherwise
-- the job falls due again, for one of two reasons:
-- - The answer was about a prefix that is smaller than the block of the job, so it covers only some of the job's
--   addresses. The job is due at once.
-- - Another transaction has locked an address, so the answer could not be stored for this address. The job is due after
--   a pause.
-- $1 text: name of the provider
-- $2 text[]: lookup keys of the jobs
-- $3 text[]: those lookup keys in $2 with an address that another transaction has locked
-- $4 float8: pause for the lookup keys in $3, in seconds
WITH waiting AS MATERIALIZED (
    SELECT j.lookup_key
    FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.lookup_key = ANY ($2)
      AND (SELECT true FROM @extschema@.job_address a
           WHERE a.provider = $1 AND a.lookup_key = j.lookup_key LIMIT 1)
), done AS (
    DELETE FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.lookup_key = ANY ($2) AND j.lookup_key <> ALL (ARRAY(SELECT w.lookup_key FROM waiting w))
)
UPDATE @extschema@.enrichment_job j
SET leased_by = NULL, due_at = now() + CASE WHEN j.lookup_key = ANY ($3) THEN make_interval(secs => $4) ELSE '0' END
FROM waiting w
WHERE j.provider = $1 AND j.lookup_key = w.lookup_key
