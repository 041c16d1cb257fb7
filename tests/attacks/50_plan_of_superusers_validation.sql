-- postgres attaches alice's partitioned table with add_foreign_key, which the documentation allows for a superuser. A query on
-- the partitions validates their keys. Success: the predicate of her index runs as postgres.
-- as alice
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE TABLE al.parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id);
CREATE TABLE al.p1 PARTITION OF al.parts FOR VALUES IN (1);
CREATE INDEX predicate ON al.p1 (id) WHERE al.konst('predicate');
DELETE FROM al.loot;
-- as postgres
SELECT enrich.attach_session_table('al.parts', 'ip', 't', true);
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice')
    THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot) END;
