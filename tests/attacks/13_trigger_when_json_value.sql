-- The same with JSON_VALUE(… RETURNING domain) and JSON_QUERY, in version 17 and later.
-- Success: the CHECK of bob's domain runs as alice.
-- as bob
CREATE TABLE bo.loot (who name);
GRANT INSERT ON bo.loot TO PUBLIC;
GRANT USAGE ON SCHEMA bo TO PUBLIC;
CREATE FUNCTION bo.note() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO bo.loot VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION bo.spy(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN bo.note(); END $$;
CREATE DOMAIN bo.dom AS text CHECK (bo.spy(VALUE));
CREATE TYPE bo.pair AS (a int, d bo.dom);
-- as alice
GRANT TRIGGER ON al.sess TO bob;
-- as bob
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 170000 THEN
        EXECUTE 'CREATE TRIGGER spy BEFORE UPDATE ON al.sess FOR EACH ROW WHEN (JSON_VALUE(to_jsonb(NEW.id), ''$'' RETURNING bo.dom) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()';
        EXECUTE 'CREATE TRIGGER spy2 BEFORE UPDATE ON al.sess FOR EACH ROW WHEN (JSON_QUERY(''{"d":"x"}''::jsonb, ''$'' RETURNING bo.pair) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()';
        EXECUTE 'CREATE TRIGGER spy3 BEFORE UPDATE ON al.sess FOR EACH ROW WHEN (JSON_VALUE(to_jsonb(NEW.id), ''$'' RETURNING bo.dom ERROR ON ERROR)::text IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()';
    END IF;
END $$;
DELETE FROM bo.loot;
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot WHERE who <> 'bob') THEN 'safe' ELSE 'broken' END;
