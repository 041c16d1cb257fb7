-- Foreign keys that other roles have created to tables of the extension. PostgreSQL checks such a foreign key with the
-- rights of the owner of the referenced table. For the check, PostgreSQL may convert the referencing value by an
-- implicit cast. The owner of the type of the referencing column can create such a cast.

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
               -- PostgreSQL compares an integer with a bigint by built-in operators, so no cast is needed.
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
    'foreign keys to tables of the extension, if the types of the referencing and the referenced column differ; the check of such a key runs a cast, so the creator of the cast can run code as the owner of the extension';
COMMENT ON COLUMN unsafe_foreign_keys.types IS
    'types of the referencing columns; if such a type differs from the type of the referenced column, the owner of the type can create a cast; the check of the key runs the code of this cast';
COMMENT ON COLUMN unsafe_foreign_keys.drop_command IS
    'statement that drops the foreign key; null if a partition inherited the key; in that case, drop the key of the partitioned table';

-- When addresses are deleted, the server checks the foreign keys of session tables with the rights of the owners of
-- these tables. While the server plans the check, code of such an owner can run. Outside a restricted operation, this
-- code could open a cursor WITH HOLD. At the commit, the query of this cursor would run with the rights of the user who
-- commits.
CREATE FUNCTION in_restricted_operation() RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'in_restricted_operation_wrapper';
COMMENT ON FUNCTION in_restricted_operation() IS
    'true inside a security-restricted operation of PostgreSQL, in which code cannot affect the rest of the database session';

CREATE FUNCTION addresses_leave() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reference record;
BEGIN
    IF TG_OP <> 'TRUNCATE' AND @extschema@.in_restricted_operation() THEN
        RETURN NULL;
    END IF;
    SELECT c.conrelid::regclass AS rel, r.rolname AS owner INTO reference
    FROM pg_constraint c
    JOIN pg_class t ON t.oid = c.conrelid
    JOIN pg_roles r ON r.oid = t.relowner
    WHERE c.contype = 'f' AND c.confrelid = TG_RELID AND NOT r.rolsuper AND r.rolname <> current_user
    ORDER BY c.conrelid
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'could not delete addresses that tables of other roles can reference',
            DETAIL = format('Table %s of role %I has a foreign key to ip_inventory. Checking the key can run code of that role.',
                reference.rel, reference.owner),
            HINT = 'Call delete_addresses() instead.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION addresses_leave() IS
    'trigger on ip_inventory: rejects DELETE, TRUNCATE and changes of ip_address while tables of other roles have foreign keys to ip_inventory; delete_addresses() is allowed';
CREATE TRIGGER addresses_leave BEFORE DELETE OR TRUNCATE OR UPDATE OF ip_address ON ip_inventory
    FOR EACH STATEMENT EXECUTE FUNCTION addresses_leave();

CREATE FUNCTION delete_addresses(ips inet[]) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'delete_addresses_wrapper';
COMMENT ON FUNCTION delete_addresses(inet[]) IS
    'delete addresses from ip_inventory, and return the number of deleted addresses; fails if a foreign key of a session table references one of the addresses; has the same effect on later statements of the transaction as SET CONSTRAINTS ALL IMMEDIATE';
