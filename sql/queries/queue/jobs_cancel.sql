-- Removes addresses from jobs that the caller has locked. If no other address waits for such a job, deletes the job.
-- Returns the removed addresses.
-- $1 text: name of the provider
-- $2 inet: address, or null for all addresses
-- $3 text[]: lookup keys of the jobs
WITH removed AS (
    DELETE FROM @extschema@.job_address a
    WHERE a.provider = $1 AND a.lookup_key = ANY ($3) AND ($2 IS NULL OR a.ip_address = $2)
    RETURNING a.ip_address
), deleted AS (
    DELETE FROM @extschema@.enrichment_job j
    WHERE j.provider = $1 AND j.lookup_key = ANY ($3)
      AND ($2 IS NULL OR (
          SELECT true FROM @extschema@.job_address a
          WHERE a.provider = $1 AND a.lookup_key = j.lookup_key AND a.ip_address <> $2 LIMIT 1) IS NULL)
)
SELECT r.ip_address FROM removed r
