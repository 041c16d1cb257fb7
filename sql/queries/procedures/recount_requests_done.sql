-- Deletes all requests for a recount that the transaction sees.
DELETE FROM @extschema@.recount_request
