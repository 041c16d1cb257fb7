-- alice makes columns of an attached table generated, renames them, and changes their types while sessions are stored and wait.
-- Success: a backend crashes, or campaign_networks() of the analyst runs her cast.
-- as alice
CREATE TYPE al.evil AS ENUM ('a');
CREATE FUNCTION al.evil_to_text(al.evil) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('cast to text'); RETURN 'DE'; END $$;
CREATE CAST (al.evil AS text) WITH FUNCTION al.evil_to_text(al.evil) AS IMPLICIT;
CREATE FUNCTION al.evil_to_big(al.evil) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('cast to bigint'); RETURN 1; END $$;
CREATE CAST (al.evil AS bigint) WITH FUNCTION al.evil_to_big(al.evil) AS IMPLICIT;
GRANT SELECT ON al.sess TO PUBLIC;
INSERT INTO al.sess (id, ip) VALUES (1, '60.0.0.7'), (2, '8.8.8.8');
ALTER TABLE al.sess DROP COLUMN snapshot_asn, ADD COLUMN snapshot_asn al.evil DEFAULT 'a';
-- fails
INSERT INTO al.sess (id, ip) VALUES (3, '1.1.1.1');
-- as analyst
-- fails
SELECT * FROM enrich.campaign_networks('al.sess');
-- as alice
ALTER TABLE al.sess DROP COLUMN snapshot_asn, ADD COLUMN snapshot_asn bigint GENERATED ALWAYS AS (id + 1) STORED;
-- as analyst
-- fails
SELECT * FROM enrich.campaign_networks('al.sess');
-- as postgres
CREATE TEMP TABLE alive (x int);
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
CALL enrich.refresh_session_counts();
INSERT INTO alive VALUES (1);
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
