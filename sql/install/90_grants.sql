-- Revokes privileges that ALTER DEFAULT PRIVILEGES has granted on the extension's objects. For example, a honeypot's
-- manual tells the administrator to give the honeypot's role write access to every future table in "public". This block
-- must be the last statement that follows the creation of objects. It revokes privileges only on objects that this
-- transaction has added to the extension, also in subtransactions. An update script ends with the same block, and must
-- keep the privileges that were granted after the installation.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT member.kind, member.name, acl.grantee
        FROM (
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                   c.oid::pg_catalog.regclass::text AS name,
                   COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner)) AS acl, c.relowner AS owner,
                   'pg_catalog.pg_class'::pg_catalog.regclass AS class, c.oid
            FROM pg_catalog.pg_class c
            UNION ALL
            SELECT 'ROUTINE', p.oid::pg_catalog.regprocedure::text,
                   COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner,
                   'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid
            FROM pg_catalog.pg_proc p) member
        JOIN pg_catalog.pg_depend d
          ON d.classid OPERATOR(pg_catalog.=) member.class AND d.objid OPERATOR(pg_catalog.=) member.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
         AND pg_catalog.age(d.xmin) OPERATOR(pg_catalog.<=) pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.xid)
        JOIN pg_catalog.pg_extension e
          ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
         AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND e.extname OPERATOR(pg_catalog.=) 'cowrie_enrich'
        CROSS JOIN LATERAL pg_catalog.aclexplode(member.acl) acl
        WHERE acl.grantee OPERATOR(pg_catalog.<>) member.owner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', granted.kind, granted.name,
            CASE WHEN granted.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE granted.grantee::pg_catalog.regrole::text END);
    END LOOP;
END
$$;

-- All roles may call the functions that read only constants and the mmdb files of this server.
GRANT EXECUTE ON FUNCTION ip_country(inet), ip_registered_country(inet), ip_city(inet), ip_location(inet), ip_asn(inet),
    ip_asn_org(inet), maxmind_lookup(inet), mmdb_in_service(text),
    ip_type_entries(inet), contains_benign_scanner(cidr), ip_type_lists(), stored_types_of(jsonb),
    networks_within(cidr), networks_of_benign_scanners(),
    -- The planner checks the privileges on these two functions when it converts a constant.
    parsed_address_in(cstring), parsed_address_out(parsed_address),
    is_bogon(inet), bogon_reason(inet), asn_registry(bigint), is_bogon_asn(bigint), classify_asn(bigint, text), classify_name(text),
    canonical_address(inet), providers(), is_provider(text), may_be_asked(text, inet), lookup_key_of(text, inet), is_lookup_key(text, text),
    is_source_fresh(jsonb, text, integer, integer), is_source_open(jsonb, text, boolean), has_sessions_since_skip(jsonb, text, bigint, timestamptz), is_source_stale(jsonb, bigint, text, text), network_kind(text, boolean, boolean), sessions_wait_for_types(),
    session_address(text), session_address(inet), session_time(timestamptz), seen_over(timestamptz, timestamptz), lock_session_table(regclass, boolean), session_table_findings(regclass, name, name), library_version(), require_library(text),
    announced_prefix(jsonb), attribution_change_between(bigint, text, bigint, text), contains_bogon(cidr), prefix_size(cidr), is_benign_of(jsonb), document_time(text),
    geo_country_of(jsonb), ip_types_of(jsonb), is_scanner_of(jsonb), is_bogon_of(jsonb) TO PUBLIC;

-- Raises an error if functions with the same names already exist and belong to an untrusted owner. If the parameters of
-- such a function matched a call better, PostgreSQL would run that function instead of the function of the extension.
DO $$
DECLARE
    lookalike record;
BEGIN
    SELECT p.oid::pg_catalog.regprocedure::text AS call, pg_catalog.pg_get_userbyid(p.proowner) AS owner INTO lookalike
    FROM pg_catalog.pg_proc ours
    JOIN pg_catalog.pg_depend d
      ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::oid AND d.objid OPERATOR(pg_catalog.=) ours.oid
     AND d.deptype OPERATOR(pg_catalog.=) 'e'
    JOIN pg_catalog.pg_extension e
      ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::oid
     AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND e.extname OPERATOR(pg_catalog.=) 'cowrie_enrich'
    JOIN pg_catalog.pg_proc p
      ON p.proname OPERATOR(pg_catalog.=) ours.proname AND p.pronamespace OPERATOR(pg_catalog.=) ours.pronamespace
     AND p.proowner OPERATOR(pg_catalog.<>) ours.proowner
    JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) p.proowner AND NOT r.rolsuper
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_function',
            MESSAGE = pg_catalog.format('function %s already exists', lookalike.call),
            DETAIL = pg_catalog.format('The function belongs to role %I, and PostgreSQL could call it instead of a function of cowrie_enrich.', lookalike.owner),
            HINT = 'Install the extension into a separate schema in which no other role can create objects.';
    END IF;
END
$$;
