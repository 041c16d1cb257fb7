-- Deletes options of tables that were dropped.
DELETE FROM @extschema@.session_table_option o WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = o.rel)
