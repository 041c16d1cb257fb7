-- Erasing addresses.

-- Each word that may be an address is parsed in the same way as in the triggers of session tables. So all spellings are found.
CREATE FUNCTION mentions_address(content text, ips inet[]) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT
        FROM regexp_matches($1, '[0-9A-Fa-f.:]{2,}', 'g') m(parts)
        CROSS JOIN LATERAL (VALUES (m.parts[1]), (rtrim(m.parts[1], '.:')),
            (substring(m.parts[1] FROM '[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+'))) w(word)
        WHERE @extschema@.session_address(w.word) = ANY ($2))
    $$;
COMMENT ON FUNCTION mentions_address(text, inet[]) IS
    'true if a text contains one of the given addresses, in any notation';

CREATE PROCEDURE erase_address(ip inet, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'erase_address_wrapper';
COMMENT ON PROCEDURE erase_address(inet, boolean) IS
    'erase an address from the sessions of all attached tables and from all tables of the extension; removes the address and the snapshot values from each session, or deletes the session if delete_sessions is true; the caller must have the rights of the owners of all attached tables; commits after each batch; can be repeated';

CREATE PROCEDURE expire_addresses(
    older_than interval, rel regclass DEFAULT NULL, delete_sessions boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'expire_addresses_wrapper';
COMMENT ON PROCEDURE expire_addresses(interval, regclass, boolean) IS
    'erase the addresses of sessions older than older_than, in one attached table or in all attached tables; then erase addresses without a newer session from all tables of the extension; commits after each batch; can be repeated';
