-- The operator, an analyst and alice lock tables of the extension with the strongest modes that they may use. They call
-- lock_session_table() for tables of others. Success: an insert of hp waits or fails, or others' tables are locked.
-- as alice
BEGIN;
-- fails
SELECT enrich.lock_session_table('public.sessions', true);
ROLLBACK;
BEGIN;
-- fails
SELECT enrich.lock_session_table('enrich.ip_inventory', false);
ROLLBACK;
BEGIN;
-- fails
SELECT enrich.lock_session_table('pg_catalog.pg_class', true);
-- as anon
BEGIN;
-- fails
SELECT enrich.lock_session_table('bo.sess', true);
-- as operator
BEGIN;
LOCK TABLE enrich.known_networks IN ACCESS EXCLUSIVE MODE;
-- fails
LOCK TABLE enrich.rejected_row IN ACCESS EXCLUSIVE MODE;
-- as analyst
BEGIN;
-- fails
LOCK TABLE enrich.ip_inventory IN SHARE MODE;
-- as hp
SET statement_timeout = '5s';
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '8.8.8.8');
INSERT INTO public.sessions (id, starttime, ip) VALUES ('b', now(), '60.0.0.7');
-- as bob
SET statement_timeout = '5s';
INSERT INTO bo.sess (id, ip) VALUES (1, '1.1.1.1');
SELECT CASE WHEN EXISTS (SELECT FROM pg_locks WHERE relation IN ('public.sessions'::regclass, 'bo.sess'::regclass, 'enrich.ip_inventory'::regclass) AND mode IN ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock', 'ShareLock')) THEN 'broken' ELSE 'safe' END;
