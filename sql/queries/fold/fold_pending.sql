-- Returns the number of pending session counts.
SELECT count(*) FROM @extschema@.session_delta
