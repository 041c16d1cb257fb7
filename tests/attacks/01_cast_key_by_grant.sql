-- alice makes a foreign key from a column of her enum type, with an implicit cast that runs as the extension's owner.
-- Success: the key exists, or her cast ran as another role.
-- as alice
CREATE TYPE al.evil AS ENUM ('a');
CREATE FUNCTION al.evil_to_inet(al.evil) RETURNS inet LANGUAGE plpgsql AS $$
BEGIN PERFORM al.note('cast'); RETURN '8.8.8.8'::inet; END $$;
CREATE CAST (al.evil AS inet) WITH FUNCTION al.evil_to_inet(al.evil) AS IMPLICIT;
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8');
-- fails
CREATE TABLE al.t (a al.evil REFERENCES enrich.ip_inventory (ip_address));
CREATE TABLE al.u (a al.evil, t timestamptz);
-- fails
SELECT enrich.create_address_key('al.u', 'a');
-- fails
INSERT INTO al.u VALUES ('a', now());
-- fails
SELECT enrich.attach_session_table('al.u', 'a', 't', add_foreign_key => true);
-- fails
INSERT INTO al.u VALUES ('a', now());
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice')
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid IN ('al.u'::regclass))
    AND to_regclass('al.t') IS NULL THEN 'safe' ELSE 'broken' END;
