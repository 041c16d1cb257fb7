-- Returns the OID of the temporary table. The OID is not a constant, because each transaction creates its own table.
SELECT to_regclass('pg_temp.cowrie_enrich_counted')::oid
