-- Ends the leases of earlier workers. A database has only one worker, which is the caller.
-- $1 bigint: id of the worker whose leases are kept
UPDATE @extschema@.enrichment_job
SET due_at = now(), leased_by = NULL
WHERE leased_by <> $1
