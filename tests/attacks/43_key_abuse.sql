-- alice calls create_address_key() for tables of others, views, partitions, system tables, a temporary table and other columns.
-- She also calls it in a transaction that she aborts, inside a function and after a savepoint. Success: a key on a table of
-- another role, or a grant that stays.
-- as alice
-- fails
SELECT enrich.create_address_key('bo.sess', 'ip');
-- fails
SELECT enrich.create_address_key('public.sessions', 'ip');
-- fails
SELECT enrich.create_address_key('enrich.ip_asn_history', 'ip_address');
-- fails
SELECT enrich.create_address_key('pg_catalog.pg_class', 'relname');
CREATE VIEW al.v AS SELECT * FROM al.sess;
-- fails
SELECT enrich.create_address_key('al.v', 'ip');
CREATE TEMP TABLE tt (ip inet);
-- fails
SELECT enrich.create_address_key('tt', 'ip');
-- fails
SELECT enrich.create_address_key('al.sess', 'ctid');
-- fails
SELECT enrich.create_address_key('al.sess', 'ip) REFERENCES enrich.ip_inventory; ALTER ROLE alice SUPERUSER; --');
-- fails
SELECT enrich.create_address_key(NULL, 'ip');
CREATE TABLE al."q"" k" ("i""p" inet);
SELECT enrich.create_address_key('al."q"" k"', 'i"p');
CREATE TABLE al.twice (ip inet);
BEGIN;
SELECT enrich.create_address_key('al.twice', 'ip');
-- fails
CREATE TABLE al.direct (x al.loot, ip text REFERENCES enrich.ip_inventory (ip_address));
ROLLBACK;
BEGIN;
SELECT enrich.create_address_key('al.twice', 'ip');
-- fails
GRANT REFERENCES ON enrich.ip_inventory TO bob;
ROLLBACK;
-- fails
DO $$ BEGIN
    PERFORM enrich.create_address_key('al.twice', 'ip');
    EXECUTE 'CREATE TABLE al.direct (ip inet REFERENCES enrich.ip_inventory (ip_address))';
END $$;
-- fails
DO $$ BEGIN
    BEGIN PERFORM enrich.create_address_key('al.twice', 'nix'); EXCEPTION WHEN OTHERS THEN NULL; END;
    EXECUTE 'CREATE TABLE al.direct (ip inet REFERENCES enrich.ip_inventory (ip_address))';
END $$;
SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_class c CROSS JOIN aclexplode(c.relacl) a WHERE c.oid = 'enrich.ip_inventory'::regclass AND a.privilege_type = 'REFERENCES' AND a.grantee <> c.relowner)
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid IN ('bo.sess'::regclass, 'public.sessions'::regclass))
    AND to_regclass('al.direct') IS NULL AND NOT EXISTS (SELECT FROM enrich.unsafe_foreign_keys) AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE 'broken' END;
