-- Locks the jobs of a provider that no worker has leased, in the order of their lookup keys. If $2 is set, locks only
-- the job for which this address waits. Every transaction locks a job before it adds an address to the job. So the
-- caller's next statement sees every address that waits for the locked jobs.
-- $1 text: name of the provider
-- $2 inet: address, or null for all addresses
SELECT j.lookup_key
FROM @extschema@.enrichment_job j
WHERE j.provider = $1 AND (j.leased_by IS NULL OR j.due_at <= now())
  AND ($2 IS NULL OR j.lookup_key = (
      SELECT a.lookup_key FROM @extschema@.job_address a WHERE a.provider = $1 AND a.ip_address = $2))
ORDER BY j.lookup_key
FOR UPDATE
