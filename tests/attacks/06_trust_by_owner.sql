-- alice marks her own table as trusted, by options, by attaching, and by writing the options table.
-- Success: trust_input is true.
-- as alice
-- fails
SELECT enrich.set_session_table_options('al.sess', NULL, true);
-- fails
SELECT enrich.attach_session_table('al.sess', 'ip', 't', false, NULL, true);
-- fails
INSERT INTO enrich.session_table_option (rel, trust_input) VALUES ('al.sess'::regclass, true);
-- as operator
-- fails
SELECT enrich.set_session_table_options('al.sess', NULL, true);
-- as bob
-- fails
SELECT enrich.set_session_table_options('al.sess', true, NULL);
SELECT CASE WHEN EXISTS (SELECT FROM enrich.attached_tables a WHERE to_jsonb(a)->>'trust_input' = 'true' OR to_jsonb(a)->>'run_triggers' = 'true')
    THEN 'broken' ELSE 'safe' END;
