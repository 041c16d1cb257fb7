-- alice prepares a transaction that creates addresses, and leaves another one open with an honest address in it.
-- Success: counts of hp's sessions are not folded.
-- as alice
BEGIN;
INSERT INTO al.sess (id, ip) SELECT i, ('62.0.' || i || '.7')::inet FROM generate_series(1, 100) i;
PREPARE TRANSACTION 'held';
BEGIN;
INSERT INTO al.sess (id, ip) VALUES (1000, '8.8.8.8');
-- as hp
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '1.1.1.1'), ('b', now(), '62.0.1.7');
INSERT INTO public.sessions (id, starttime, ip) VALUES ('c', now(), '8.8.8.8');
-- wait (SELECT session_count = 1 FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1')
-- as postgres
CALL enrich.fold_statistics();
-- as hp
INSERT INTO public.sessions (id, starttime, ip) VALUES ('d', now(), '1.1.1.1');
-- wait (SELECT session_count = 2 FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1')
SELECT 'safe';
