-- That table. Not a constant: there is another one in each transaction.
SELECT to_regclass('pg_temp.cowrie_enrich_counted')::oid
