-- dbo, alice and the extension's owner try to change the hosts and roles that the server uses, for a session, a role, a database.
-- Success: one of these settings is set.
-- as dbo
-- fails
SET cowrie_enrich.cymru_whois_host = '192.0.2.1';
-- fails
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET cowrie_enrich.city_database = ''/etc/passwd''', current_database()); END $$;
-- fails
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET cowrie_enrich.worker_role = ''dbo''', current_database()); END $$;
-- fails
ALTER ROLE dbo SET cowrie_enrich.otlp_endpoint = 'http://192.0.2.1';
-- as alice
-- fails
ALTER ROLE alice SET cowrie_enrich.worker_role = 'alice';
-- fails
SELECT set_config('cowrie_enrich.spur_url', 'http://192.0.2.1', false);
-- fails
CREATE FUNCTION al.set_it() RETURNS int LANGUAGE sql SET cowrie_enrich.enabled_sources = 'maxmind' AS 'SELECT 1';
-- as cowrie_owner
-- fails
SET cowrie_enrich.worker_enabled = off;
-- fails
ALTER SYSTEM SET cowrie_enrich.worker_enabled = off;
-- as anon
-- fails
SELECT current_setting('cowrie_enrich.spur_token_file');
SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setconfig::text LIKE '%cowrie%')
    AND NOT EXISTS (SELECT FROM pg_proc WHERE proname = 'set_it')
    AND NOT has_parameter_privilege('alice', 'cowrie_enrich.worker_role', 'SET') THEN 'safe' ELSE 'broken' END;
