-- Ends all leases of jobs except the leases of the caller. A database has only one worker, which is the caller. So the
-- other leases belong to workers that have ended.
-- $1 bigint: id of the worker whose leases are kept
UPDATE @extschema@.enrichment_job
SET due_at = now(), leased_by = NULL
WHERE leased_by <> $1
