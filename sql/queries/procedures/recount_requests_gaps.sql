-- Returns true if at least one request for a recount says that sessions may be missing from incomplete_session.
SELECT EXISTS (SELECT FROM @extschema@.recount_request r WHERE r.has_gaps)
