-- bob owns a child and a partition of alice's tables, with his code in CHECKs, defaults and triggers. alice backfills, and
-- the worker completes. Success: bob's code runs as alice, or a row of the child gets another address's snapshot.
-- as bob
CREATE TABLE bo.loot (who name);
GRANT INSERT ON bo.loot TO PUBLIC;
GRANT USAGE ON SCHEMA bo TO PUBLIC;
CREATE FUNCTION bo.note() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO bo.loot VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION bo.spy(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN bo.note(); END $$;
-- as alice
CREATE TABLE al.parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id);
CREATE TABLE al.p1 PARTITION OF al.parts FOR VALUES IN (1);
SELECT enrich.attach_session_table('al.parts', 'ip', 't');
CREATE TABLE al.child () INHERITS (al.sess);
GRANT CREATE ON SCHEMA al TO bob;
-- as postgres
ALTER TABLE al.child OWNER TO bob;
ALTER TABLE al.p1 OWNER TO bob;
-- as bob
ALTER TABLE al.child ADD CHECK (bo.spy(snapshot_country)), ADD CHECK (bo.spy('x'));
ALTER TABLE al.p1 ADD CHECK (bo.spy(snapshot_country)), ADD CHECK (bo.spy('x'));
CREATE INDEX ON al.child (id) WHERE bo.spy('x');
DELETE FROM bo.loot;
INSERT INTO al.child (id, ip) VALUES (1, '60.0.0.7');
INSERT INTO al.p1 (id, ip) VALUES (1, '60.0.0.7');
-- as postgres
INSERT INTO al.sess (id, ip) VALUES (2, '60.0.0.7');
-- wait EXISTS (SELECT FROM ONLY al.sess WHERE snapshot_asn IS NOT NULL)
-- as postgres
DELETE FROM bo.loot;
-- as alice
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
CALL enrich.backfill_sessions('al.parts');
-- fails
SELECT enrich.attach_session_table('al.sess', 'ip', 't');
-- as postgres
-- fails
CALL enrich.backfill_sessions('al.parts');
-- fails
CALL enrich.refresh_session_counts();
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot WHERE who <> 'bob') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who, ',') FROM bo.loot) END;
