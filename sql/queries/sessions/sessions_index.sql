-- Returns those indexes of a table that may find its incomplete sessions. These are the btree indexes on parsed
-- addresses. Takes no lock on the table.
-- $1 oid: OID of the table
SELECT i.indexrelid
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indnatts = 1 AND i.indkey[0] = 0
JOIN pg_attribute key ON key.attrelid = i.indexrelid AND key.attnum = 1 AND key.atttypid = 'inet'::regtype
JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = 'inet_ops' AND o.opcnamespace = 'pg_catalog'::regnamespace
JOIN pg_am a ON a.oid = o.opcmethod AND a.amname = 'btree'
WHERE c.oid = $1 AND c.relkind = 'r' AND c.relpersistence <> 't'
  AND EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_type'::regclass
      AND d.refobjid = '@extschema@.parsed_address'::regtype)
ORDER BY 1
