-- bob has TRIGGER on alice's table. The trigger calls a built-in function, and its WHEN condition has bob's operator.
-- Success: bob's operator runs as alice.
-- as bob
CREATE TABLE bo.loot (who name);
GRANT INSERT ON bo.loot TO PUBLIC;
GRANT USAGE ON SCHEMA bo TO PUBLIC;
CREATE FUNCTION bo.note() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO bo.loot VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION bo.eq(int, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN bo.note(); END $$;
CREATE OPERATOR bo.=== (LEFTARG = int, RIGHTARG = text, FUNCTION = bo.eq);
-- as alice
GRANT TRIGGER ON al.sess TO bob;
-- as bob
CREATE TRIGGER spy BEFORE UPDATE ON al.sess FOR EACH ROW WHEN (NEW.id OPERATOR(bo.===) 'x') EXECUTE FUNCTION suppress_redundant_updates_trigger();
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot) THEN 'safe' ELSE 'broken' END;
