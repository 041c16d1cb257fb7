-- dbo, the owner of the database, and alice publish tables of the extension. They also publish alice's table, with her function
-- as row filter and without a replica identity. Success: a publication of the extension's tables, her function in a filter, or folding or bob's completion stops.
-- as dbo
-- fails
CREATE PUBLICATION p1 FOR TABLE enrich.session_delta;
-- fails
CREATE PUBLICATION p2 FOR ALL TABLES;
-- fails
CREATE PUBLICATION p3 FOR TABLES IN SCHEMA enrich;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO alice', current_database()); END $$;
-- as alice
-- fails
CREATE PUBLICATION p4 FOR TABLE al.sess WHERE (al.note('filter'));
-- fails
CREATE PUBLICATION p5 FOR TABLE enrich.ip_inventory;
CREATE PUBLICATION p6 FOR TABLE al.sess;
ALTER TABLE al.sess REPLICA IDENTITY NOTHING;
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- fails
CALL enrich.backfill_sessions('al.sess');
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
-- wait (SELECT session_count = 1 FROM enrich.ip_inventory WHERE ip_address = '61.0.0.7')
SELECT CASE WHEN (SELECT array_agg(pubname) FROM pg_publication) = '{p6}' AND NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') THEN 'safe' ELSE 'broken' END;
