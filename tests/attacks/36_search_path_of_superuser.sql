-- postgres has alice's schema before pg_catalog on its search_path, and calls the extension's functions by qualified name
-- on honest tables. Success: alice's look-alikes run.
-- as alice
CREATE FUNCTION al.eqt(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('= text'); RETURN true; END $$;
CREATE OPERATOR al.= (LEFTARG = text, RIGHTARG = text, FUNCTION = al.eqt);
CREATE FUNCTION al.eqo(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('= oid'); RETURN true; END $$;
CREATE OPERATOR al.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = al.eqo);
CREATE FUNCTION al.eqi(inet, inet) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('= inet'); RETURN true; END $$;
CREATE OPERATOR al.= (LEFTARG = inet, RIGHTARG = inet, FUNCTION = al.eqi);
CREATE FUNCTION al.lei(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('<= bigint'); RETURN true; END $$;
CREATE OPERATOR al.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = al.lei);
CREATE FUNCTION al.session_address(text) RETURNS inet LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM al.note('session_address'); RETURN NULL; END $$;
CREATE FUNCTION al.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('now'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION al.min(anyelement) RETURNS anyelement LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('min'); RETURN $1; END $$;
CREATE FUNCTION al.host(inet) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('host'); RETURN ''; END $$;
CREATE FUNCTION al.length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('length'); RETURN 1; END $$;
CREATE TABLE al.ip_inventory (ip_address inet PRIMARY KEY);
CREATE TABLE al.pg_class (oid oid, relname name);
CREATE DOMAIN al.inet AS text CHECK (al.note('domain inet'));
CREATE DOMAIN al.bigint AS int8 CHECK (al.note('domain bigint'));
-- as postgres
SET search_path = al, pg_catalog, public;
INSERT INTO public.sessions (id, starttime, ip) VALUES ('a', pg_catalog.now(), '8.8.8.8'), ('b', pg_catalog.now(), '60.0.0.7');
SELECT enrich.attach_session_table('public.sessions'::regclass, 'ip'::name, 'starttime'::name);
SELECT enrich.index_session_table('public.sessions'::regclass);
SELECT enrich.campaign_query('public.sessions'::regclass);
SELECT enrich.enrich_ip('9.9.9.9'::pg_catalog.inet);
SELECT enrich.ensure_asn_inventory(64500::pg_catalog.int8, 'x');
SELECT enrich.delete_addresses('{9.9.9.9}'::pg_catalog.inet[]);
SELECT enrich.set_session_priority('public.sessions'::regclass, '1');
SELECT enrich.set_session_table_options('public.sessions'::regclass, true, true);
CALL enrich.backfill_sessions('public.sessions'::regclass);
CALL enrich.refresh_session_counts();
CALL enrich.fold_statistics();
CALL enrich.build_asn_inventory();
CALL enrich.refresh_stale();
SELECT * FROM enrich.attached_tables;
SELECT * FROM enrich.completion_status;
SELECT * FROM enrich.unsafe_foreign_keys;
SELECT * FROM enrich.persistent_addresses;
SELECT * FROM enrich.network_activity;
SELECT * FROM enrich.moved_addresses;
SELECT * FROM enrich.enrich_metrics;
SELECT * FROM enrich.queue_status;
SELECT * FROM enrich.enrich_progress;
SELECT enrich.detach_session_table('public.sessions'::regclass);
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who <> 'alice') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'alice') THEN 'safe' ELSE (SELECT string_agg(DISTINCT who || ' ' || how, ', ') FROM al.loot WHERE who <> 'alice') END;
