-- Whether a request for a recount says that sessions with gaps were not noted.
SELECT EXISTS (SELECT FROM @extschema@.recount_request r WHERE r.has_gaps)
