-- alice's CHECK, run by a backfill of postgres and in her owner process, writes into tables with deferred triggers, opens cursors
-- WITH HOLD, prepares, listens, notifies and creates temporary objects. Success: something runs as another role than alice.
-- as alice
CREATE TABLE al.later (x int);
GRANT ALL ON al.later TO PUBLIC;
CREATE FUNCTION al.trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('deferred'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER d AFTER INSERT ON al.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION al.trig();
CREATE FUNCTION al.leave(x text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE s text;
BEGIN
    FOREACH s IN ARRAY ARRAY['INSERT INTO al.later VALUES (1)', 'SET CONSTRAINTS ALL DEFERRED', 'DECLARE c CURSOR WITH HOLD FOR SELECT al.note(''cursor'')',
        'PREPARE p AS SELECT al.note(''prepared'')', 'LISTEN x', 'NOTIFY x', 'CREATE TEMP TABLE session_completion (ip_address inet, rel oid)',
        'CREATE TEMP VIEW pg_class AS SELECT al.note(''view'')', 'DEALLOCATE ALL', 'DISCARD TEMP', 'UNLISTEN *', 'CLOSE ALL', 'RESET ALL',
        'CREATE INDEX ON al.later ((al.note(''index'')))', 'SET LOCAL search_path = al', 'REFRESH MATERIALIZED VIEW al.m', 'ANALYZE al.later', 'LOAD ''plpgsql''',
        'SELECT lo_create(0)', 'ALTER TABLE al.sess ADD CHECK (al.note(''late check''))', 'DROP TABLE al.sess', 'TRUNCATE al.sess'] LOOP
        BEGIN EXECUTE s; EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    RETURN al.note('left');
END $$;
ALTER TABLE al.sess DISABLE TRIGGER USER;
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8'), (2, '1.1.1.1');
ALTER TABLE al.sess ENABLE TRIGGER USER;
ALTER TABLE al.sess ADD CONSTRAINT c CHECK (al.leave(snapshot_country)) NOT VALID;
-- as postgres
CREATE TEMP TABLE alive (x int);
-- fails
CALL enrich.backfill_sessions('al.sess');
INSERT INTO alive VALUES (1);
-- as alice
INSERT INTO al.sess (id, ip) VALUES (3, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND EXISTS (SELECT FROM al.loot WHERE how = 'left') THEN 'safe'
    ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot) END;
