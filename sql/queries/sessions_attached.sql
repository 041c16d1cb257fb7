-- Session tables, and the columns that their addresses are in.
SELECT t.rel::oid::bigint, t.rel::text, t.ip_column FROM @extschema@.attached_tables t ORDER BY 1
