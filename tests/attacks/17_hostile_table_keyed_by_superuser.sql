-- postgres adds and validates the foreign key of alice's hostile table. The check of the rows plans a query on it.
-- Success: al.loot names another role than alice.
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8');
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE FUNCTION al.number(how text, x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note(how); RETURN x; END $$;
CREATE INDEX predicate ON al.sess (id) WHERE al.konst('predicate');
CREATE INDEX folded ON al.sess ((al.number('folded', 7)));
CREATE STATISTICS al.st ON (al.number('statistics', 3)), id FROM al.sess;
ALTER TABLE al.sess ADD CONSTRAINT c CHECK (al.note('check'));
DELETE FROM al.loot;
-- as postgres
-- fails
CALL enrich.add_session_foreign_key('al.sess');
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
SELECT enrich.create_address_key('al.sess', 'ip');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
