-- Time of the oldest request for a recount, in microseconds since 2000.
SELECT (EXTRACT(epoch FROM min(r.requested_at) - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint
FROM @extschema@.recount_request r
