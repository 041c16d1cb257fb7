-- alice terminates and cancels every process that the server allows, in a loop, including her owner process.
-- Success: the worker ends, or bob's sessions are not completed.
-- as postgres
CREATE TABLE public.worker AS SELECT pid FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker' AND datname = current_database();
-- as alice
INSERT INTO al.sess (id, ip) SELECT i, ('60.0.' || i || '.7')::inet FROM generate_series(1, 50) i;
-- background
DO $$ DECLARE p int; BEGIN
    FOR i IN 1..2000 LOOP
        FOR p IN SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() LOOP
            BEGIN PERFORM pg_cancel_backend(p); PERFORM pg_terminate_backend(p); EXCEPTION WHEN OTHERS THEN NULL; END;
        END LOOP;
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.002);
    END LOOP;
END $$;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
SELECT CASE WHEN NOT EXISTS (SELECT FROM public.worker) OR EXISTS (SELECT FROM public.worker JOIN pg_stat_activity USING (pid)) THEN 'safe' ELSE 'broken' END;
