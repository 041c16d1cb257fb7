-- Erasing addresses.

-- The function is not STRICT, because a null text mentions no address.
CREATE FUNCTION mentions_address(content text, ips inet[]) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mentions_address_wrapper';
COMMENT ON FUNCTION mentions_address(text, inet[]) IS
    'true if a text contains one of the given addresses in any spelling: also as a part of a host name, in hexadecimal or as one number, with escapes, or with brackets that make the address harmless';

CREATE PROCEDURE erase_address(ip inet, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'erase_address_wrapper';
COMMENT ON PROCEDURE erase_address(inet, boolean) IS
    'erase an address from the sessions of all attached tables and from all tables of the extension. Removes the address and the snapshot values from each session, or deletes the session if delete_sessions is true. The caller must have the rights of the owners of all attached tables. Commits after each batch. The call can be repeated';

CREATE PROCEDURE expire_addresses(
    older_than interval, rel regclass DEFAULT NULL, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'expire_addresses_wrapper';
COMMENT ON PROCEDURE expire_addresses(interval, regclass, boolean) IS
    'erase the addresses of sessions older than older_than, in one attached table or in all attached tables. Then erase addresses without a newer session from all tables of the extension. Commits after each batch. The call can be repeated';

-- A later call for another address must not hide a call that failed. So a row identifies its address, but only by a digest. The
-- digest has a random value for each row, and the row is deleted when the erasure of the address succeeds.
CREATE TABLE unfinished_erasure (
    id             uuid PRIMARY KEY,
    procedure      text NOT NULL,
    relation       oid NOT NULL,
    address_digest bytea,
    expires_before timestamptz,
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT unfinished_erasure_target_check CHECK (pg_catalog.num_nonnulls(address_digest, expires_before) = 1)
);
-- A dump contains no rows of this table, because anyone who has a digest can try all IPv4 addresses.
SELECT pg_catalog.pg_extension_config_dump('unfinished_erasure', 'WHERE false');
COMMENT ON TABLE unfinished_erasure IS
    'calls of erase_address() and expire_addresses() that are running, have failed or were killed; a call that erases the same addresses deletes the row when it succeeds; you can delete rows from unfinished_erasure';
COMMENT ON COLUMN unfinished_erasure.id IS 'random value, which is also a part of the input of the digest';
COMMENT ON COLUMN unfinished_erasure.relation IS
    'OID of the table that the call processes; 0 if the call processes all attached tables';
COMMENT ON COLUMN unfinished_erasure.address_digest IS
    'SHA-256 of the id and the address that the call erases; null for expire_addresses()';
COMMENT ON COLUMN unfinished_erasure.expires_before IS
    'the call erases addresses without a session since this time; null for erase_address()';

-- Reads the scheduled job from a table of pg_cron. Another role may have created a schema with the name "cron". So the
-- function reads the table only if it belongs to the extension pg_cron.
CREATE FUNCTION erasure_status(OUT failed_calls bigint, OUT last_expiry timestamptz, OUT is_scheduled boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) INTO failed_calls
    FROM @extschema@.unfinished_erasure u
    WHERE (u.relation = 0 OR EXISTS (SELECT FROM pg_class r WHERE r.oid = u.relation))
      AND NOT EXISTS (
          SELECT FROM @extschema@.enrich_progress p
          WHERE p.procedure = u.procedure AND p.relation IS NOT DISTINCT FROM NULLIF(u.relation, 0)::regclass
            AND u.started_at >= p.started_at);
    SELECT max(c.succeeded_at) INTO last_expiry
    FROM @extschema@.procedure_call c
    WHERE c.procedure = 'expire_addresses' AND c.relation = 0;
    is_scheduled := false;
    IF EXISTS (
        SELECT FROM pg_extension e
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
        JOIN pg_class t ON d.classid = 'pg_class'::regclass AND t.oid = d.objid AND t.relkind = 'r'
        WHERE e.extname = 'pg_cron' AND t.oid = to_regclass('cron.job')) THEN
        is_scheduled := EXISTS (
            SELECT FROM ONLY cron.job j
            WHERE j.active AND j.database = current_database() AND strpos(j.command, 'expire_addresses') > 0);
    END IF;
EXCEPTION
    -- The owner of the extension has no right to read the table of pg_cron, or this version of pg_cron has other
    -- columns.
    WHEN insufficient_privilege OR undefined_column OR undefined_function THEN
        is_scheduled := false;
END
$$;
COMMENT ON FUNCTION erasure_status() IS
    'state of the erasures: failed_calls is the number of calls of erase_address() and expire_addresses() that failed or were killed, and were not repeated for the same addresses; last_expiry is the end of the last successful call of expire_addresses() for all tables; is_scheduled is true if an active job of pg_cron in this database calls expire_addresses()';
