-- The same with a partitioned table, whose partitions' keys are validated by reference_addresses() for the caller.
-- Success: al.loot names another role than alice.
-- as alice
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE FUNCTION al.number(how text, x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note(how); RETURN x; END $$;
CREATE TABLE al.parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id);
CREATE TABLE al.p1 PARTITION OF al.parts FOR VALUES IN (1);
CREATE TABLE al.p2 PARTITION OF al.parts FOR VALUES IN (2);
CREATE INDEX predicate ON al.p1 (id) WHERE al.konst('predicate');
CREATE INDEX folded ON al.p1 ((al.number('folded', 7)));
ALTER TABLE al.p1 ADD CONSTRAINT c CHECK (al.konst('check'));
SELECT enrich.attach_session_table('al.parts', 'ip', 't');
INSERT INTO al.parts (id, ip) VALUES (1, '8.8.8.8'), (2, '60.0.0.7');
DELETE FROM al.loot;
-- as postgres
-- fails
SELECT enrich.attach_session_table('al.parts', 'ip', 't', true);
-- fails
SELECT enrich.reference_addresses('al.parts', true);
-- fails
CALL enrich.add_session_foreign_key('al.parts');
-- fails
CALL enrich.backfill_sessions('al.parts');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
