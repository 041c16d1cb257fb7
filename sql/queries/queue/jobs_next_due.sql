-- Time when the next job of a provider falls due.
-- $1 text: provider
-- $2 boolean: true if lookups of networks may be sent
SELECT min(j.due_at)
FROM @extschema@.enrichment_job j
WHERE j.provider = $1 AND ($2 OR j.lookup_kind <> 'asn')
