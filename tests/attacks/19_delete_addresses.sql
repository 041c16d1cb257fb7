-- The owner of the extension and postgres delete addresses. The check of alice's key plans a query on her table. Her code
-- tries to leave a cursor WITH HOLD and a deferred trigger for the commit.
-- Success: al.loot names another role than alice.
-- as alice
CREATE FUNCTION al.konst(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN al.note(how); END $$;
CREATE FUNCTION al.number(how text, x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note(how); RETURN x; END $$;
CREATE TABLE al.k (a inet, id int DEFAULT 1);
CREATE TABLE al.later (x int);
CREATE FUNCTION al.trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('deferred'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER d AFTER INSERT ON al.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION al.trig();
CREATE FUNCTION al.leave() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM al.note('leave');
    BEGIN EXECUTE 'INSERT INTO al.later VALUES (1)'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT al.note(''cursor'')'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'PREPARE p AS SELECT al.note(''prepared'')'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'CREATE TEMP TABLE ip_inventory (x int)'; EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN true;
END $$;
SELECT enrich.create_address_key('al.k', 'a');
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8'), (2, '1.1.1.1'), (3, '9.9.9.9');
CREATE INDEX predicate ON al.k (id) WHERE al.leave();
DELETE FROM al.loot;
-- as cowrie_owner
-- fails
DELETE FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1';
SELECT enrich.delete_addresses('{1.1.1.1}');
-- as postgres
-- fails
UPDATE enrich.ip_inventory SET ip_address = '7.7.7.7' WHERE ip_address = '9.9.9.9';
-- fails
DELETE FROM enrich.ip_inventory WHERE ip_address = '9.9.9.9';
-- fails
TRUNCATE enrich.ip_inventory CASCADE;
SELECT enrich.delete_addresses('{8.8.8.8}');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
