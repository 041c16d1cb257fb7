-- bob has TRIGGER on alice's table. His trigger shall run as alice when her sessions are completed.
-- Success: bob's code runs as alice.
-- as bob
CREATE TABLE bo.loot (who name);
GRANT INSERT ON bo.loot TO PUBLIC;
GRANT USAGE ON SCHEMA bo TO PUBLIC;
CREATE FUNCTION bo.spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO bo.loot VALUES (current_user); RETURN NEW; END $$;
-- as alice
GRANT TRIGGER ON al.sess TO bob;
-- as bob
CREATE TRIGGER spy BEFORE UPDATE ON al.sess FOR EACH ROW EXECUTE FUNCTION bo.spy();
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM bo.loot)
    AND (SELECT blocked_reason FROM enrich.attached_tables WHERE rel = 'al.sess'::regclass) LIKE '%spy%'
    THEN 'safe' ELSE 'broken' END;
