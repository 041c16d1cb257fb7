-- Deletes pending counts.
-- $1 tid[]: places
DELETE FROM @extschema@.session_delta d WHERE d.ctid = ANY ($1)
