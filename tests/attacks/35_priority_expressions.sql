-- alice and others set rules on tables of others, with more than an expression, and with code. The rule stays when a table
-- gets another owner. Success: a rule is set that must be refused, or code runs as another role.
-- as alice
-- fails
SELECT enrich.set_session_priority('public.sessions', '1');
-- fails
SELECT enrich.set_session_priority('bo.sess', '1');
-- fails
SELECT enrich.set_session_priority('al.sess', '1 FROM al.sess s; ALTER ROLE alice SUPERUSER; SELECT 1');
-- fails
SELECT enrich.set_session_priority('al.sess', '1) ; SELECT (al.note(''rule'')::int');
-- fails
SELECT enrich.set_session_priority('al.sess', '1 -- ');
-- fails
SELECT enrich.set_session_priority('al.sess', '1 /* ');
-- fails
SELECT enrich.set_session_priority('al.sess', 'count(*) OVER ()');
SELECT enrich.set_session_priority('al.sess', '(SELECT al.note(''rule'')::int)');
-- as hp
-- fails
SELECT enrich.set_session_priority('public.sessions', '1');
-- as operator
-- fails
SELECT enrich.set_session_priority('public.sessions', '1');
-- as postgres
ALTER TABLE al.sess OWNER TO bob;
-- as postgres
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM al.sess WHERE id = 1)
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT EXISTS (SELECT FROM enrich.session_priority WHERE rel <> 'al.sess'::regclass) AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE 'broken' END;
