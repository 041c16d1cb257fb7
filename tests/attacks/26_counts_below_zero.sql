-- alice lets DELETE and TRUNCATE count, but not INSERT, so that counts of an honest address go below zero.
-- Success: folding fails for all, or the honest address has no count.
-- as hp
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', now(), '8.8.8.8');
-- as alice
CREATE TABLE al.minus (id int, ip inet, t timestamptz, snapshot_asn bigint, snapshot_country text, snapshot_ip_type text, enrichment jsonb, enrichment_at timestamptz);
INSERT INTO al.minus (id, ip) SELECT i, '8.8.8.8' FROM generate_series(1, 1000) i;
CREATE TRIGGER d AFTER DELETE ON al.minus FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('ip', 't');
CREATE TRIGGER f AFTER INSERT ON al.minus FOR EACH STATEMENT EXECUTE FUNCTION enrich.forget_sessions('ip');
DELETE FROM al.minus WHERE id <= 500;
-- fails
INSERT INTO al.minus (id, ip) VALUES (2000, '8.8.8.8');
-- fails
INSERT INTO al.minus (id, ip) VALUES (2001, '8.8.8.8');
DROP TABLE al.minus;
-- as postgres
CALL enrich.fold_statistics();
-- as hp
INSERT INTO public.sessions (id, starttime, ip) VALUES ('b', now(), '1.1.1.1');
-- as postgres
CALL enrich.fold_statistics();
CALL enrich.refresh_session_counts();
CALL enrich.fold_statistics();
SELECT CASE WHEN (SELECT array_agg(session_count ORDER BY ip_address) FROM enrich.ip_inventory WHERE ip_address IN ('1.1.1.1', '8.8.8.8')) = '{1,1}' THEN 'safe' ELSE 'broken' END;
