-- alice's CHECK changes settings of the session that backfills her table: search_path, role, timeouts. After that
-- she raises errors. Success: the session of postgres is lost, has one of her settings, or runs her look-alike.
-- as alice
CREATE FUNCTION al.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('lower'); RETURN $1; END $$;
CREATE FUNCTION al.change(x text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE s text[];
BEGIN
    IF session_user = 'alice' AND x IS NULL THEN RETURN true; END IF;
    FOREACH s SLICE 1 IN ARRAY ARRAY[['search_path','al,pg_catalog'],['role','alice'],['session_authorization','alice'],
        ['default_transaction_read_only','on'],['transaction_read_only','on'],['statement_timeout','1'],['quote_all_identifiers','on'],['session_replication_role','replica'],['row_security','off']] LOOP
        BEGIN PERFORM pg_catalog.set_config(s[1], s[2], false); EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    PERFORM pg_catalog.pg_advisory_lock(1);
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
INSERT INTO alive VALUES ('yes');
CREATE TABLE public.settings AS SELECT current_setting('search_path') AS path, current_user AS cu, session_user AS su, current_setting('exit_on_error') AS ex,
    current_setting('session_replication_role') AS rep, current_setting('quote_all_identifiers') AS quoted, current_setting('statement_timeout') AS timeout,
    current_setting('default_transaction_read_only') AS ro, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS advisory;
SELECT CASE WHEN (SELECT s FROM public.settings s)::text = '(public,postgres,postgres,off,origin,off,20s,off,0)' AND NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice')
    THEN 'safe' ELSE (SELECT s FROM public.settings s)::text END;
