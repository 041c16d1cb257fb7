-- Erasing addresses.

-- Parses each word that may be an address in the same way as the triggers of session tables do. So the function finds every
-- spelling of an address.
CREATE FUNCTION mentions_address(content text, ips inet[]) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT
        FROM regexp_matches($1, '[0-9A-Fa-f.:]{2,}', 'g') m(parts)
        CROSS JOIN LATERAL (VALUES (m.parts[1]), (rtrim(m.parts[1], '.:')),
            (substring(m.parts[1] FROM '[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+'))) w(word)
        WHERE @extschema@.session_address(w.word) = ANY ($2)
           -- Also finds the bytes of an address in hexadecimal form, including the bytes of an IPv4-mapped address. The result of
           -- inet_send() has four other bytes before the bytes of the address.
           OR CASE WHEN w.word ~ '^([0-9A-Fa-f]{8}|[0-9A-Fa-f]{32})$'
              THEN regexp_replace(lower(w.word), '^0{20}ffff(?=.{8}$)', '')
                   = ANY (SELECT encode(substring(inet_send(u.ip) FROM 5), 'hex') FROM unnest($2) u(ip)) END)
    $$;
COMMENT ON FUNCTION mentions_address(text, inet[]) IS
    'true if a text contains one of the given addresses in any spelling, or the bytes of such an address in hex';

CREATE PROCEDURE erase_address(ip inet, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'erase_address_wrapper';
COMMENT ON PROCEDURE erase_address(inet, boolean) IS
    'erase an address from the sessions of all attached tables and from all tables of the extension. Removes the address and the snapshot values from each session, or deletes the session if delete_sessions is true. The caller must have the rights of the owners of all attached tables. Commits after each batch. The call can be repeated';

CREATE PROCEDURE expire_addresses(
    older_than interval, rel regclass DEFAULT NULL, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'expire_addresses_wrapper';
COMMENT ON PROCEDURE expire_addresses(interval, regclass, boolean) IS
    'erase the addresses of sessions older than older_than, in one attached table or in all attached tables. Then erase addresses without a newer session from all tables of the extension. Commits after each batch. The call can be repeated';

-- Reads the scheduled job from a table of pg_cron. Another role may have created a schema with the name "cron". So the
-- function reads the table only if it belongs to the extension pg_cron.
CREATE FUNCTION erasure_status(OUT failed_calls bigint, OUT last_expiry timestamptz, OUT is_scheduled boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) FILTER (WHERE c.ended_at IS NULL AND NOT EXISTS (
               SELECT FROM @extschema@.enrich_progress p
               WHERE p.procedure = c.procedure AND p.relation IS NOT DISTINCT FROM NULLIF(c.relation, 0)::regclass)),
           max(c.succeeded_at) FILTER (WHERE c.procedure = 'expire_addresses' AND c.relation = 0)
    INTO failed_calls, last_expiry
    FROM @extschema@.procedure_call c
    WHERE c.procedure IN ('erase_address', 'expire_addresses')
      AND (c.relation = 0 OR EXISTS (SELECT FROM pg_class r WHERE r.oid = c.relation));
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
    'state of the erasures: failed_calls is the number of calls of erase_address() and expire_addresses() that failed or were killed, and were not repeated; last_expiry is the end of the last successful call of expire_addresses() for all tables; is_scheduled is true if an active job of pg_cron in this database calls expire_addresses()';
