-- Returns the time when the next job of a provider falls due.
-- $1 text: name of the provider
-- $2 boolean: true if the worker may send lookups of networks
SELECT min(j.due_at)
FROM @extschema@.enrichment_job j
WHERE j.provider = $1 AND ($2 OR j.lookup_kind <> 'asn')
