-- Returns whether a request for a recount says that sessions with gaps were not appended.
SELECT EXISTS (SELECT FROM @extschema@.recount_request r WHERE r.has_gaps)
