-- Locks those of the given jobs whose lease the caller still holds. After a lease has expired, another worker may have
-- leased the job.
-- $1 text: name of the provider
-- $2 text[]: lookup keys of the jobs
-- $3 bigint: id of the worker that holds the leases
SELECT j.lookup_key
FROM @extschema@.enrichment_job j
WHERE j.provider = $1 AND j.lookup_key = ANY ($2) AND j.leased_by = $3
ORDER BY j.lookup_key
FOR UPDATE
