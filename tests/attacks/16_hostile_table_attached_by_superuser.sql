-- postgres attaches, indexes and detaches alice's hostile table, and adds a key and a rule.
-- Success: al.loot names another role than alice.
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8'), (2, '60.0.0.7');
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE FUNCTION al.number(how text, x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note(how); RETURN x; END $$;
ALTER TABLE al.sess ADD CONSTRAINT c CHECK (al.note('check')), ADD gen int GENERATED ALWAYS AS (al.number('generated', 1)) STORED;
CREATE INDEX predicate ON al.sess (id) WHERE al.konst('predicate');
CREATE INDEX expression ON al.sess ((al.number('expression', id)));
CREATE INDEX folded ON al.sess ((al.number('folded', 7)));
CREATE STATISTICS al.st ON (al.number('statistics', 3)), id FROM al.sess;
CREATE POLICY p ON al.sess USING (al.note('policy'));
ALTER TABLE al.sess ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE FUNCTION al.trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('trigger ' || TG_NAME); RETURN NEW; END $$;
CREATE TRIGGER b BEFORE UPDATE ON al.sess FOR EACH ROW EXECUTE FUNCTION al.trig();
CREATE TRIGGER s AFTER UPDATE ON al.sess FOR EACH STATEMENT EXECUTE FUNCTION al.trig();
CREATE CONSTRAINT TRIGGER d AFTER UPDATE ON al.sess DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION al.trig();
DELETE FROM al.loot;
-- as postgres
-- fails
SELECT enrich.attach_session_table('al.sess', 'ip', 't', true);
-- fails
SELECT enrich.index_session_table('al.sess');
-- fails
SELECT enrich.session_index_commands('al.sess');
-- fails
SELECT enrich.set_session_priority('al.sess', 's.id');
-- fails
SELECT enrich.set_session_priority('al.sess', 'al.note(''rule'')::int');
-- fails
SELECT enrich.set_session_table_options('al.sess', true, true);
-- fails
SELECT enrich.campaign_query('al.sess');
-- fails
SELECT enrich.detach_session_table('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
