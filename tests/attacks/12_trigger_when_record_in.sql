-- The same with record_in(), the input function of bob's composite type. Its column has bob's domain as type.
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
-- fails
DO $$ BEGIN EXECUTE format('CREATE TRIGGER spy BEFORE UPDATE ON al.sess FOR EACH ROW WHEN (record_in(''(1,x)''::cstring, %s, -1) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()', 'bo.pair'::regtype::oid); END $$;
DELETE FROM bo.loot;
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot WHERE who <> 'bob') THEN 'safe' ELSE 'broken' END;
