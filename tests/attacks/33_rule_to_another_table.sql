-- alice has rules that turn an UPDATE of her table into one of the inventory, one of bob's table, and a call of her function.
-- Success: the inventory or bob's table changes, or her function runs as another role.
-- as bob
GRANT USAGE ON SCHEMA bo TO alice;
-- as alice
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8');
CREATE RULE r1 AS ON UPDATE TO al.sess DO ALSO UPDATE bo.sess SET snapshot_country = 'XX';
CREATE RULE r2 AS ON UPDATE TO al.sess DO ALSO UPDATE enrich.ip_inventory SET session_count = 666;
CREATE RULE r3 AS ON UPDATE TO al.sess DO ALSO SELECT al.note('rule');
CREATE RULE r4 AS ON INSERT TO al.sess DO ALSO SELECT al.note('insert rule');
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '8.8.8.8');
-- as postgres
-- fails
CALL enrich.backfill_sessions('al.sess');
-- as alice
-- fails
INSERT INTO al.sess (id, ip) VALUES (3, '60.0.0.7');
-- wait EXISTS (SELECT FROM enrich.ip_inventory WHERE ip_address = '60.0.0.7' AND current_asn IS NOT NULL)
-- fails
CALL enrich.backfill_sessions('al.sess');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT EXISTS (SELECT FROM bo.sess WHERE snapshot_country = 'XX')
    AND NOT EXISTS (SELECT FROM enrich.ip_inventory WHERE session_count = 666) THEN 'safe' ELSE 'broken' END;
