-- Locks and foreign keys of session tables.

CREATE FUNCTION create_address_key(rel regclass, ip_column name) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_address_key_wrapper';
COMMENT ON FUNCTION create_address_key(regclass, name) IS
    'add a foreign key to ip_inventory from a session table that the caller owns; the address column must have type inet; the caller does not need the REFERENCES privilege on ip_inventory';

CREATE FUNCTION lock_session_table(rel regclass, exclusively boolean) RETURNS regclass[]
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'lock_session_table_wrapper';
COMMENT ON FUNCTION lock_session_table(regclass, boolean) IS
    'lock a table that the caller owns, and its inheritance children with the same owner; until the transaction ends, other transactions cannot rename or drop these tables; returns the locked tables';

CREATE FUNCTION reference_addresses(rel regclass, whole boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own CONSTANT text := '@extschema@';
    attached record;
    ip_type regtype;
    arguments text;
    part regclass;
    is_partitioned boolean;
BEGIN
    SELECT a.ip_column, a.time_column INTO attached FROM @extschema@.attached_tables a
    WHERE a.rel = reference_addresses.rel AND a.ip_column <> ''
    ORDER BY 1, 2 LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s is not an attached session table', rel),
            HINT = 'Call attach_session_table() for the table first.';
    END IF;
    SELECT c.relkind = 'p' INTO is_partitioned FROM pg_class c WHERE c.oid = rel;
    SELECT a.atttypid INTO ip_type FROM pg_attribute a
    WHERE a.attrelid = rel AND a.attname = attached.ip_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF ip_type IS DISTINCT FROM 'inet'::regtype THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('a foreign key needs an address column of type inet, but column %I has type %s', attached.ip_column, ip_type),
            HINT = 'Call attach_session_table() without add_foreign_key => true. Or call detach_session_table(), change the type of the column to inet, and call attach_session_table() again.';
    END IF;
    IF EXISTS (SELECT FROM pg_attribute a
               WHERE a.attrelid = reference_addresses.rel AND a.attname = attached.ip_column AND NOT a.attisdropped AND a.attgenerated <> '') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('address column %I of %s is generated', attached.ip_column, rel),
            DETAIL = 'With a foreign key, a trigger of the extension must write each address as ip_inventory stores it. A trigger cannot write a generated column.',
            HINT = 'Call attach_session_table() without add_foreign_key => true. Or use an ordinary column, and fill the column in a BEFORE trigger.';
    END IF;
    arguments := format('%L, %L', attached.ip_column, COALESCE(attached.time_column, ''));
    -- Each of the following commands waits for its own lock. Without the lock that is taken here, the name of the table could refer
    -- to another table after such a wait.
    PERFORM @extschema@.lock_session_table(rel, false);
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = rel AND t.tgname = 'COWRIE_ENRICH_reference') THEN
        -- With the argument 'canonical', the trigger writes addresses into the column in the form that ip_inventory
        -- has.
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER zz_cowrie_enrich_snapshot BEFORE INSERT OR UPDATE
             ON %s FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s, %L)', rel, own, arguments, 'canonical');
        -- Triggers fire in the order of their names. The name of this trigger sorts before the names of PostgreSQL's
        -- own triggers, which begin with "RI_". So this trigger writes the addresses before PostgreSQL checks the
        -- foreign key.
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER "COWRIE_ENRICH_reference" AFTER INSERT OR UPDATE
             ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %s.enrich_session(%s)',
            rel, own, arguments);
    END IF;
    -- First adds a separate foreign key to each partition, without reading rows. If the foreign keys of all partitions
    -- are valid, adding the foreign key of the partitioned table also reads no rows.
    FOR part IN
        SELECT t.relid
        FROM (SELECT rel AS relid WHERE NOT is_partitioned
              UNION ALL
              SELECT p.relid FROM pg_partition_tree(rel) p WHERE is_partitioned AND p.isleaf) t
        WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = t.relid AND c.contype = 'f'
                          AND c.confrelid = '@extschema@.ip_inventory'::regclass AND c.conname = 'cowrie_enrich_address')
        ORDER BY t.relid
    LOOP
        PERFORM @extschema@.create_address_key(part, attached.ip_column);
    END LOOP;
    IF NOT (whole AND is_partitioned)
       OR EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = rel AND c.contype = 'f'
                  AND c.confrelid = '@extschema@.ip_inventory'::regclass AND c.conname = 'cowrie_enrich_address') THEN
        RETURN;
    END IF;
    -- This call validates the foreign keys of the partitions, as the owner of each partition.
    PERFORM @extschema@.create_address_key(rel, attached.ip_column);
END
$$;
COMMENT ON FUNCTION reference_addresses(regclass, boolean) IS
    'creates the foreign key from a session table, or from each of its partitions, to ip_inventory; called by attach_session_table() and add_session_foreign_key(), not meant to be called directly';
