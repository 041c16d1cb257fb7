-- dbo, the owner of the database, and alice alter, move and drop the extension, add objects to it, and create objects in its schema.
-- Success: the extension, its owner, its schema or its members have changed.
-- as dbo
-- fails
ALTER EXTENSION cowrie_enrich SET SCHEMA public;
-- fails
DROP EXTENSION cowrie_enrich CASCADE;
-- fails
DROP SCHEMA enrich CASCADE;
-- fails
ALTER SCHEMA enrich RENAME TO old;
-- fails
CREATE FUNCTION enrich.enrich_session(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
-- fails
CREATE TABLE enrich.look_alike (x int);
-- fails
REASSIGN OWNED BY cowrie_owner TO dbo;
-- fails
GRANT cowrie_owner TO dbo;
-- fails
CREATE OR REPLACE FUNCTION enrich.resume_owner(owner name) RETURNS boolean LANGUAGE sql AS 'SELECT true';
-- as alice
-- fails
ALTER EXTENSION cowrie_enrich ADD FUNCTION al.note(text);
-- fails
ALTER EXTENSION cowrie_enrich DROP FUNCTION enrich.enrich_session();
-- fails
ALTER FUNCTION enrich.enrich_session() DEPENDS ON EXTENSION plpgsql;
-- fails
ALTER INDEX enrich.ip_inventory_pkey RENAME TO gone;
-- fails
CREATE RULE r AS ON INSERT TO enrich.ip_inventory DO INSTEAD NOTHING;
-- fails
CREATE TRIGGER t BEFORE INSERT ON enrich.ip_inventory FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
-- fails
CREATE POLICY p ON enrich.ip_inventory USING (al.note('policy'));
-- fails
CREATE STATISTICS al.st ON (al.note('x')), session_count FROM enrich.ip_inventory;
-- fails
CREATE TABLE al.heir () INHERITS (enrich.ip_inventory);
-- fails
ALTER TABLE al.sess INHERIT enrich.ip_inventory;
SELECT CASE WHEN (SELECT count(*) FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
        WHERE e.extname = 'cowrie_enrich' AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass AND (SELECT proowner::regrole::text FROM pg_proc WHERE oid = d.objid) <> 'cowrie_owner') = 0
    AND (SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'enrich') = 'cowrie_owner'
    AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'enrich.ip_inventory'::regclass)
    AND to_regclass('enrich.look_alike') IS NULL AND NOT pg_has_role('dbo', 'cowrie_owner', 'MEMBER') THEN 'safe' ELSE 'broken' END;
