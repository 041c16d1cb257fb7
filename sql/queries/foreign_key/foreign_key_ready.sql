-- Returns true if every partition that can hold rows has a validated foreign key.
-- $1 oid: OID of the table
SELECT NOT EXISTS (
    SELECT
    FROM pg_partition_tree($1::regclass) t
    WHERE t.isleaf
      AND NOT EXISTS (
          SELECT
          FROM pg_constraint c
          WHERE c.conrelid = t.relid AND c.contype = 'f' AND c.convalidated AND c.conname = 'cowrie_enrich_address'
            AND c.confrelid = '@extschema@.ip_inventory'::regclass))
