-- The attached tables.
SELECT a.rel::oid FROM @extschema@.attached_tables a
