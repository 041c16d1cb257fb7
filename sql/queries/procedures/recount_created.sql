-- Returns the temporary table. It is not a constant, because each transaction creates its own.
SELECT to_regclass('pg_temp.cowrie_enrich_counted')::oid
