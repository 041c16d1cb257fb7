-- alice swaps her attached table and another one by rename, in a loop, while postgres backfills it and the worker
-- completes it. Success: a row of the other table gets a snapshot, or a session gets another address's snapshot.
-- as alice
CREATE TABLE al.other (LIKE al.sess);
INSERT INTO al.other (id, ip) SELECT i, ('60.9.' || i % 250 || '.7')::inet FROM generate_series(1, 2000) i;
ALTER TABLE al.sess DISABLE TRIGGER USER;
INSERT INTO al.sess (id, ip) SELECT i, CASE WHEN i % 2 = 0 THEN '8.8.8.8' ELSE '1.1.1.1' END::inet FROM generate_series(1, 5000) i;
ALTER TABLE al.sess ENABLE TRIGGER USER;
INSERT INTO al.sess (id, ip) SELECT 10000 + i, ('60.0.' || i || '.7')::inet FROM generate_series(1, 100) i;
-- background
DO $$ BEGIN
    FOR i IN 1..400 LOOP
        ALTER TABLE al.sess RENAME TO third;
        ALTER TABLE al.other RENAME TO sess;
        ALTER TABLE al.third RENAME TO other;
        COMMIT;
        PERFORM pg_sleep(0.002);
        ALTER TABLE al.sess RENAME TO third;
        ALTER TABLE al.other RENAME TO sess;
        ALTER TABLE al.third RENAME TO other;
        COMMIT;
    END LOOP;
END $$;
-- as postgres
-- fails
CALL enrich.backfill_sessions('al.sess', batch_size => 100);
-- fails
CALL enrich.backfill_sessions('al.sess', batch_size => 100);
-- fails
CALL enrich.backfill_sessions('al.sess', batch_size => 10);
-- as alice
SELECT 1;
-- as postgres
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.other WHERE snapshot_asn IS NOT NULL)
    AND NOT EXISTS (SELECT FROM al.sess WHERE (ip = '8.8.8.8' AND snapshot_asn <> 15169) OR (ip = '1.1.1.1' AND snapshot_asn <> 13335))
    AND EXISTS (SELECT FROM al.sess WHERE snapshot_asn = 15169) THEN 'safe' ELSE 'broken' END;
