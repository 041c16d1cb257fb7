-- Pending session counts.
SELECT count(*) FROM @extschema@.session_delta
