-- Foreign keys that others made. PostgreSQL checks a key as the owner of the referenced table, and converts the value by
-- any implicit cast. The owner of the column's type can write that cast.

CREATE VIEW unsafe_foreign_keys AS
    SELECT c.conrelid::pg_catalog.regclass AS rel, c.conname AS constraint_name,
           c.confrelid::pg_catalog.regclass AS referenced, a.columns, a.types,
           pg_catalog.pg_get_userbyid(r.relowner) AS table_owner,
           CASE WHEN c.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
                THEN pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I',
                                       c.conrelid::pg_catalog.regclass, c.conname) END AS drop_command
    FROM pg_catalog.pg_constraint c
    JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) c.conrelid
    JOIN pg_catalog.pg_depend d
      ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
     AND d.objid OPERATOR(pg_catalog.=) c.confrelid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
    JOIN pg_catalog.pg_extension e
      ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'cowrie_enrich'::pg_catalog.name
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(own.attname ORDER BY k.place) AS columns,
               pg_catalog.array_agg(own.atttypid::pg_catalog.regtype ORDER BY k.place) AS types,
               -- An integer is compared with a bigint by operators of the server's own.
               pg_catalog.bool_and(
                   own.atttypid OPERATOR(pg_catalog.=) theirs.atttypid
                   OR (own.atttypid OPERATOR(pg_catalog.=) ANY ('{int2,int4,int8}'::pg_catalog.regtype[]::pg_catalog.oid[])
                       AND theirs.atttypid OPERATOR(pg_catalog.=) ANY ('{int2,int4,int8}'::pg_catalog.regtype[]::pg_catalog.oid[]))
               ) AS are_safe
        FROM ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey))
             WITH ORDINALITY k(own_number, their_number, place)
        JOIN pg_catalog.pg_attribute own
          ON own.attrelid OPERATOR(pg_catalog.=) c.conrelid AND own.attnum OPERATOR(pg_catalog.=) k.own_number
        JOIN pg_catalog.pg_attribute theirs
          ON theirs.attrelid OPERATOR(pg_catalog.=) c.confrelid AND theirs.attnum OPERATOR(pg_catalog.=) k.their_number) a
    WHERE c.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char" AND NOT a.are_safe;
COMMENT ON VIEW unsafe_foreign_keys IS
    'foreign keys to tables of the extension from columns of another type; their owners can run code as the owner of the extension';
COMMENT ON COLUMN unsafe_foreign_keys.types IS 'types of the columns; a type that is not the referenced one can bring a cast of its owner';
COMMENT ON COLUMN unsafe_foreign_keys.drop_command IS
    'the statement that drops the key; unset where the key belongs to the key of a partitioned table';
