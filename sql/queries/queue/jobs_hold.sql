-- Locks the jobs whose lease the caller still holds. After the lease has expired, the job may belong to another
-- worker.
-- $1 text: provider
-- $2 text[]: lookup key
-- $3 bigint: leased by
SELECT j.lookup_key
FROM @extschema@.enrichment_job j
WHERE j.provider = $1 AND j.lookup_key = ANY ($2) AND j.leased_by = $3
ORDER BY j.lookup_key
FOR UPDATE
