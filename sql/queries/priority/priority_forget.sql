-- Deletes the priority rules of tables that were dropped.
DELETE FROM @extschema@.session_priority r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.rel)
