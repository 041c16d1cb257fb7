-- alice's code runs while postgres is the session user of a backfill. It calls the functions that a superuser may call.
-- Success: her table is trusted, an owner is resumed, or another privilege of the session user was used.
-- as alice
CREATE FUNCTION al.ask(x text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    BEGIN PERFORM enrich.set_session_table_options('al.sess', NULL, true); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM enrich.set_session_table_options('bo.sess', true, true); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM enrich.detach_session_table('bo.sess'); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM enrich.set_session_priority('bo.sess', '1'); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM enrich.create_address_key('bo.sess', 'ip'); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'SET SESSION AUTHORIZATION postgres'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'SET ROLE postgres'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch /tmp/cowrie_attack'''; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN EXECUTE 'ALTER ROLE alice SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN al.note('asked');
END $$;
ALTER TABLE al.sess DISABLE TRIGGER USER;
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8');
ALTER TABLE al.sess ENABLE TRIGGER USER;
ALTER TABLE al.sess ADD CHECK (al.ask(snapshot_country)) NOT VALID;
DELETE FROM al.loot;
-- as postgres
CALL enrich.backfill_sessions('al.sess');
-- as alice
INSERT INTO al.sess (id, ip) VALUES (2, '60.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM al.sess WHERE id = 2)
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice')
    AND NOT EXISTS (SELECT FROM enrich.session_table_option) AND NOT EXISTS (SELECT FROM enrich.session_priority)
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'bo.sess'::regclass AND contype = 'f')
    AND EXISTS (SELECT FROM enrich.attached_tables WHERE rel = 'bo.sess'::regclass)
    AND EXISTS (SELECT FROM al.loot) THEN 'safe' ELSE 'broken' END;
