-- alice stores times that overflow, in columns of type date, timestamp and timestamptz.
-- Success: an insert fails, folding or recounting fails, or first_seen and last_seen have her times.
-- as alice
CREATE TABLE al.d (id int, ip inet, t date);
CREATE TABLE al.ts (id int, ip inet, t timestamp);
SELECT enrich.attach_session_table('al.d', 'ip', 't');
SELECT enrich.attach_session_table('al.ts', 'ip', 't');
SET timezone = 'Pacific/Kiritimati';
INSERT INTO al.d (id, ip, t) VALUES (1, '8.8.8.8', '5874897-12-31'), (2, '8.8.8.8', '4713-01-01 BC'), (3, '8.8.8.8', 'infinity'), (4, '8.8.8.8', '-infinity');
INSERT INTO al.ts (id, ip, t) VALUES (1, '8.8.8.8', '294276-12-31 23:59:59.999999'), (2, '8.8.8.8', '4713-01-01 00:00 BC'), (3, '8.8.8.8', 'infinity'), (4, '8.8.8.8', '-infinity');
SET timezone = 'America/Los_Angeles';
INSERT INTO al.ts (id, ip, t) VALUES (5, '8.8.8.8', '294276-12-31 23:59:59.999999'), (6, '8.8.8.8', '4713-01-01 00:00 BC');
INSERT INTO al.sess (id, ip, t) VALUES (1, '8.8.8.8', '294276-12-31 23:59:59.999999Z'), (2, '8.8.8.8', '4714-11-24 00:00:00Z BC'), (3, '8.8.8.8', 'infinity'), (4, '8.8.8.8', '-infinity');
UPDATE al.sess SET t = '294276-12-31 23:59:59.999999Z' WHERE id = 4;
DELETE FROM al.sess WHERE id = 3;
CALL enrich.backfill_sessions('al.d');
CALL enrich.backfill_sessions('al.ts');
-- as postgres
CALL enrich.fold_statistics();
CALL enrich.refresh_session_counts();
CALL enrich.fold_statistics();
ANALYZE enrich.ip_inventory;
SELECT CASE WHEN (SELECT count(*) FROM enrich.persistent_addresses) = 0 AND (SELECT session_count = 13 AND (last_seen IS NULL OR last_seen < now() + interval '2 days') AND (first_seen IS NULL OR first_seen >= '1970-01-01')
    FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8') THEN 'safe' ELSE 'broken' END;
