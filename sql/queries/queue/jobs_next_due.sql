-- Time when the next job of a provider falls due.
-- $1 text: provider
SELECT min(j.due_at) FROM @extschema@.enrichment_job j WHERE j.provider = $1
