-- anon, hp and members of honeypot_tables try every table and function of the extension that they were not granted.
-- Success: a privilege that the documentation does not list.
-- as anon
-- fails
SELECT * FROM enrich.ip_inventory;
-- fails
SELECT enrich.is_bogon('10.0.0.1');
SELECT COALESCE(string_agg(found, ', '), 'safe') FROM (
    SELECT r.role || ' ' || c.relname AS found FROM pg_class c CROSS JOIN (VALUES ('anon'), ('hp'), ('dbo')) r(role)
    WHERE c.relnamespace = 'enrich'::regnamespace AND c.relkind IN ('r', 'v')
      AND has_table_privilege(r.role, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
    UNION ALL
    SELECT 'alice ' || c.relname FROM pg_class c WHERE c.relnamespace = 'enrich'::regnamespace AND c.relkind IN ('r', 'v')
      AND has_table_privilege('alice', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
    UNION ALL
    SELECT 'anon may ' || p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'enrich'::regnamespace AND p.prosecdef AND p.proname <> 'classify_asn' AND has_function_privilege('anon', p.oid, 'EXECUTE')
    UNION ALL
    SELECT 'no path ' || p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'enrich'::regnamespace AND p.prosecdef AND p.proconfig::text NOT LIKE '%search\_path=%'
    UNION ALL
    SELECT 'schema ' || r.role FROM (VALUES ('anon', 'USAGE'), ('anon', 'CREATE'), ('alice', 'CREATE')) r(role, what)
    WHERE has_schema_privilege(r.role, 'enrich', r.what)
    UNION ALL
    SELECT 'attributes' FROM pg_roles
    WHERE rolname = 'cowrie_owner' AND (rolsuper OR rolcreaterole OR rolbypassrls OR rolcanlogin)) f;
