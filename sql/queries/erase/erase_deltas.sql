-- Deletes pending session counts.
-- $1 tid[]: tuple ids of the pending counts
DELETE FROM @extschema@.session_delta d WHERE d.ctid = ANY ($1)
