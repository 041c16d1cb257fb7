-- alice's attached table gets a foreign table as a partition, and as a child. The extension reads without the executor.
-- Success: a backend crashes (the connection of postgres is lost), or the honest counts are not folded.
-- as postgres
CREATE FOREIGN DATA WRAPPER nothing;
GRANT USAGE ON FOREIGN DATA WRAPPER nothing TO alice;
-- as alice
CREATE SERVER far FOREIGN DATA WRAPPER nothing;
CREATE TABLE al.parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id);
CREATE TABLE al.p1 PARTITION OF al.parts FOR VALUES IN (1);
SELECT enrich.attach_session_table('al.parts', 'ip', 't');
-- fails
CREATE FOREIGN TABLE al.p2 PARTITION OF al.parts FOR VALUES IN (2) SERVER far;
-- fails
CREATE FOREIGN TABLE al.child () INHERITS (al.sess) SERVER far;
CREATE FOREIGN TABLE al.own (id int, ip inet, t timestamptz) SERVER far;
-- fails
SELECT enrich.attach_session_table('al.own', 'ip', 't');
-- fails
CREATE TRIGGER x AFTER INSERT ON al.own FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't');
-- fails
CALL enrich.backfill_sessions('al.own');
-- fails
CALL enrich.backfill_sessions('al.parts');
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
TRUNCATE al.parts;
-- fails
TRUNCATE al.sess;
-- as hp
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '8.8.8.8');
-- as postgres
CREATE TEMP TABLE alive (x int);
-- fails
CALL enrich.refresh_session_counts();
-- fails
CALL enrich.backfill_sessions('al.parts');
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
SELECT * FROM enrich.campaign_networks('al.parts');
CALL enrich.fold_statistics();
INSERT INTO alive VALUES (1);
SELECT CASE WHEN (SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8') = 1 THEN 'safe' ELSE 'broken' END;
