-- Returns the time of the oldest request for a recount.
SELECT min(r.requested_at)
FROM @extschema@.recount_request r
