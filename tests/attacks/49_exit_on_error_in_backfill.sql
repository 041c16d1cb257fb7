-- alice's CHECK sets exit_on_error and fails, while postgres backfills her table. The error would end the session.
-- Success: the session of postgres is lost.
-- as alice
CREATE FUNCTION al.change(x text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('exit_on_error', 'on', false);
    RAISE EXCEPTION 'out';
END $$;
ALTER TABLE al.sess DISABLE TRIGGER USER;
INSERT INTO al.sess (id, ip) VALUES (1, '8.8.8.8'), (2, '1.1.1.1');
ALTER TABLE al.sess ENABLE TRIGGER USER;
ALTER TABLE al.sess ADD CONSTRAINT c CHECK (al.change(snapshot_country)) NOT VALID;
-- as postgres
CREATE TEMP TABLE alive (x text);
-- fails
CALL enrich.backfill_sessions('al.sess');
-- fails
INSERT INTO alive VALUES ('yes');
CREATE TABLE public.result AS SELECT to_regclass('pg_temp.alive') IS NOT NULL AS is_alive;
SELECT CASE WHEN is_alive THEN 'safe' ELSE 'the session of postgres is lost' END FROM public.result;
