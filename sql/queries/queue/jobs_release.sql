-- Leases of workers that are gone: there is one worker per database, and it is this one.
-- $1 bigint: leased by
UPDATE @extschema@.enrichment_job
SET due_at = now(), leased_by = NULL
WHERE leased_by <> $1
