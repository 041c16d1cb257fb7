-- Ends the leases of jobs for which no request was sent.
-- $1 text: name of the provider
-- $2 text[]: lookup keys of the jobs
-- $3 bigint: id of the worker that holds the leases
UPDATE @extschema@.enrichment_job j
SET due_at = now(), leased_by = NULL
WHERE j.provider = $1 AND j.lookup_key = ANY ($2) AND j.leased_by = $3
