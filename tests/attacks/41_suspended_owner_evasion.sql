-- alice's code catches cancellations until she is suspended. Then she gives the table to honeypot_tables, resumes herself, and
-- deletes the row of her suspension. Success: she ends the suspension, or bob's sessions are not completed.
-- as alice
CREATE FUNCTION al.stay(x text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF x IS NULL THEN RETURN true; END IF;
    LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
END $$;
ALTER TABLE al.sess ADD CHECK (al.stay(snapshot_country));
INSERT INTO al.sess (id, ip) SELECT i, ('60.0.' || i || '.7')::inet FROM generate_series(1, 5) i;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
-- wait EXISTS (SELECT FROM enrich.suspended_owner WHERE owner = 'alice')
-- as alice
-- fails
SELECT enrich.resume_owner('alice');
-- fails
DELETE FROM enrich.suspended_owner;
GRANT CREATE, USAGE ON SCHEMA al TO honeypot_tables;
ALTER TABLE al.sess OWNER TO honeypot_tables;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (2, '61.0.1.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess WHERE id = 2)
SELECT CASE WHEN EXISTS (SELECT FROM enrich.suspended_owner WHERE owner = 'alice') THEN 'safe' ELSE 'broken' END;
