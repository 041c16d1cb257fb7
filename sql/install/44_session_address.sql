-- Functions that parse the address of a session in SQL, in the same way as the trigger of session tables.

-- The expressions of indexes on addresses cast to this type instead of calling a function. For each function in an
-- index expression, PostgreSQL checks that the inserting role has the privilege EXECUTE. For a cast to a type,
-- PostgreSQL does not check this privilege on the input function of the type. So an INSERT of a session cannot fail
-- because privileges were revoked. The input function cannot return null, so 0.0.0.0/0 stands for a text that is not an
-- address.
CREATE TYPE parsed_address;
CREATE FUNCTION parsed_address_in(cstring) RETURNS parsed_address
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'parsed_address_in_wrapper';
COMMENT ON FUNCTION parsed_address_in(cstring) IS 'input function of the type parsed_address; never fails';
CREATE FUNCTION parsed_address_out(parsed_address) RETURNS cstring
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'inet_out';
COMMENT ON FUNCTION parsed_address_out(parsed_address) IS 'output function of the type parsed_address';
CREATE TYPE parsed_address (INPUT = parsed_address_in, OUTPUT = parsed_address_out, LIKE = pg_catalog.inet);
COMMENT ON TYPE parsed_address IS
    'type for index expressions on text: parses an address in the same way as the triggers of session tables; a text that is not an address becomes 0.0.0.0/0';
CREATE CAST (parsed_address AS inet) WITHOUT FUNCTION;
COMMENT ON CAST (parsed_address AS inet) IS
    'cast for index expressions on address columns; needs no conversion, because both types have the same binary representation';

-- The functions are written in SQL and are not STRICT, so that the planner inlines them. After inlining, the planner
-- recognises the expression of the index on addresses.
CREATE FUNCTION session_address(ip text) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ip::@extschema@.parsed_address::pg_catalog.inet OPERATOR(pg_catalog.<>) '0.0.0.0/0'::pg_catalog.inet
                THEN ip::@extschema@.parsed_address::pg_catalog.inet END;
COMMENT ON FUNCTION session_address(text) IS
    'parses the text of an address column in the same way as the triggers of session tables; null if the text is not an address';
CREATE FUNCTION session_address(ip inet) RETURNS inet
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.host(ip)::@extschema@.parsed_address::pg_catalog.inet;
COMMENT ON FUNCTION session_address(inet) IS
    'converts the value of an inet address column in the same way as the triggers of session tables; null if the value is null';

CREATE FUNCTION sessions_wait_for_types() RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'sessions_wait_for_types_wrapper';
COMMENT ON FUNCTION sessions_wait_for_types() IS
    'true if the provider ''spur'' is enabled; its answers can fill nulls in snapshot_ip_type of stored sessions; otherwise the extension does not try to fill these nulls, because the files of ip_type_databases give types to new sessions only';
