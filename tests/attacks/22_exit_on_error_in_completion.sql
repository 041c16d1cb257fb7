-- alice's CHECK sets exit_on_error and fails, in her owner process, repeatedly.
-- Success: bob's sessions are not completed, or the worker ends.
-- as alice
CREATE FUNCTION al.change(x text) RETURNS boolean LANGUAGE plpgsql SET exit_on_error = on AS $$
BEGIN IF x IS NULL THEN RETURN true; END IF; RAISE EXCEPTION 'out'; END $$;
ALTER TABLE al.sess ADD CONSTRAINT c CHECK (al.change(snapshot_country));
-- as postgres
CREATE TABLE public.worker AS SELECT pid FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker' AND datname = current_database();
-- as alice
INSERT INTO al.sess (id, ip) SELECT i, ('60.0.' || i || '.7')::inet FROM generate_series(1, 50) i;
-- wait EXISTS (SELECT FROM enrich.session_completion WHERE rel = 'al.sess'::regclass AND attempts > 0) OR EXISTS (SELECT FROM enrich.suspended_owner)
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
SELECT CASE WHEN NOT EXISTS (SELECT FROM public.worker) OR EXISTS (SELECT FROM public.worker JOIN pg_stat_activity USING (pid)) THEN 'safe' ELSE 'broken' END;
