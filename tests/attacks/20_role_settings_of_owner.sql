-- alice sets all settings that a role may set for its connections, and puts look-alikes on the search_path. Statements of
-- her owner process, or those of the extension's owner in it, shall run her functions or fail.
-- Success: al.loot names another role than alice, or the sessions of bob are not completed.
-- as alice
CREATE FUNCTION al.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('operator text'); RETURN true; END $$;
CREATE OPERATOR al.= (LEFTARG = text, RIGHTARG = text, FUNCTION = al.eq);
CREATE FUNCTION al.eqo(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('operator oid'); RETURN true; END $$;
CREATE OPERATOR al.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = al.eqo);
CREATE FUNCTION al.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('now'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION al.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('clock'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION al.count(anyelement) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM al.note('count'); RETURN 0; END $$;
CREATE TABLE al.pg_class (oid oid, relowner oid);
CREATE TABLE al.session_completion (rel oid);
ALTER ROLE alice SET search_path = al, pg_catalog, public;
ALTER ROLE alice SET role = 'honeypot_tables';
ALTER ROLE alice SET quote_all_identifiers = on;
ALTER ROLE alice SET exit_on_error = on;
ALTER ROLE alice SET default_transaction_isolation = 'serializable';
ALTER ROLE alice SET default_transaction_read_only = on;
ALTER ROLE alice SET statement_timeout = '1ms';
ALTER ROLE alice SET lock_timeout = '1ms';
ALTER ROLE alice SET idle_in_transaction_session_timeout = '1ms';
ALTER ROLE alice SET transform_null_equals = on;
ALTER ROLE alice SET row_security = off;
ALTER ROLE alice SET standard_conforming_strings = off;
ALTER ROLE alice SET datestyle = 'SQL, DMY';
ALTER ROLE alice SET timezone = 'Pacific/Kiritimati';
ALTER ROLE alice SET array_nulls = off;
ALTER ROLE alice SET constraint_exclusion = on;
ALTER ROLE alice SET client_encoding = 'LATIN1';
-- fails
ALTER ROLE alice SET session_replication_role = replica;
-- fails
ALTER ROLE alice SET session_preload_libraries = 'x';
-- fails
ALTER ROLE alice SET local_preload_libraries = 'x';
-- fails
ALTER ROLE alice SET enrich.worker_role = 'alice';
INSERT INTO al.sess (id, ip) SELECT i, ('60.0.' || i || '.7')::inet FROM generate_series(1, 30) i;
-- as bob
INSERT INTO bo.sess (id, ip) VALUES (1, '61.0.0.7');
-- wait (SELECT snapshot_asn IS NOT NULL FROM bo.sess)
-- as postgres
ALTER ROLE alice RESET ALL;
SELECT CASE WHEN NOT EXISTS (SELECT FROM al.loot WHERE who NOT IN ('alice', 'honeypot_tables')) THEN 'safe' ELSE 'broken' END;
