-- alice wants a key on a column of a domain over inet whose CHECK is her code.
-- Success: the key is created, or the CHECK runs as another role.
-- as alice
CREATE DOMAIN al.dom AS inet CHECK (al.note('domain'));
CREATE TABLE al.d (a al.dom, t timestamptz);
-- fails
SELECT enrich.create_address_key('al.d', 'a');
-- fails
SELECT enrich.attach_session_table('al.d', 'a', 't', true);
-- fails
INSERT INTO al.d VALUES ('8.8.8.8', now());
-- fails
CALL enrich.backfill_sessions('al.d');
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice')
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = 'al.d'::regclass)
    THEN 'safe' ELSE 'broken' END;
