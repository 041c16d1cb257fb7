-- anon, hp and members of honeypot_tables try every table and function of the extension that they were not granted.
-- Success: a right that the documentation does not give.
-- as anon
-- fails
SELECT * FROM enrich.ip_inventory;
-- fails
SELECT enrich.is_bogon('10.0.0.1');
SELECT CASE WHEN NOT EXISTS (
        SELECT FROM pg_class c CROSS JOIN (VALUES ('anon'), ('hp'), ('dbo')) r(role)
        WHERE c.relnamespace = 'enrich'::regnamespace AND c.relkind IN ('r', 'v')
          AND has_table_privilege(r.role, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'))
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'enrich'::regnamespace AND c.relkind IN ('r', 'v')
          AND has_table_privilege('alice', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'))
    AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'enrich'::regnamespace AND p.prosecdef AND has_function_privilege('anon', p.oid, 'EXECUTE'))
    AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'enrich'::regnamespace AND p.prosecdef AND NOT p.proconfig::text LIKE '%search_path=%')
    AND NOT has_schema_privilege('anon', 'enrich', 'USAGE, CREATE') AND NOT has_schema_privilege('alice', 'enrich', 'CREATE')
    AND NOT (SELECT rolsuper OR rolcreaterole OR rolbypassrls OR rolcanlogin FROM pg_roles WHERE rolname = 'cowrie_owner')
    THEN 'safe' ELSE 'broken' END;
