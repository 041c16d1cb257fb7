-- alice writes the triggers by hand, on tables of the wrong types and kinds, with system columns and strange arguments.
-- Success: a backend crashes (her connection is lost), or code reads memory.
-- as alice
CREATE TEMP TABLE alive (x int);
DO $$
DECLARE t text; arg text; kind text; n int := 0;
BEGIN
    FOREACH t IN ARRAY ARRAY['int', 'bigint', 'text', 'inet', 'cidr', 'numeric', 'bytea', 'jsonb', 'json', 'boolean', 'point', 'inet[]', 'name', '"char"', 'interval', 'date', 'macaddr', 'uuid', 'al.loot'] LOOP
        n := n + 1;
        EXECUTE format('CREATE TABLE al.w%s (gone int, ip %s, t %s, snapshot_asn %s, snapshot_country %s, snapshot_ip_type %s, enrichment %s, enrichment_at %s)', n, t, t, t, t, t, t, t);
        EXECUTE format('ALTER TABLE al.w%s DROP COLUMN gone', n);
        EXECUTE format('CREATE TRIGGER a BEFORE INSERT OR UPDATE ON al.w%s FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session(''ip'', ''t'')', n);
        EXECUTE format('CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON al.w%s FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session(''ip'', ''t'')', n);
        EXECUTE format('CREATE TRIGGER c BEFORE TRUNCATE ON al.w%s FOR EACH STATEMENT EXECUTE FUNCTION enrich.forget_sessions(''ip'')', n);
        BEGIN EXECUTE format('INSERT INTO al.w%s DEFAULT VALUES', n); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('INSERT INTO al.w%s (ip, t) VALUES (%L, %L)', n, CASE t WHEN 'jsonb' THEN '1' WHEN 'json' THEN '1' WHEN 'boolean' THEN 't' WHEN 'text' THEN '8.8.8.8' WHEN 'inet' THEN '8.8.8.8' WHEN 'interval' THEN '1 s' ELSE '1' END, CASE t WHEN 'jsonb' THEN '1' WHEN 'inet' THEN '8.8.8.8' ELSE '1' END); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('UPDATE al.w%s SET ip = ip', n); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('TRUNCATE al.w%s', n); EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('CALL enrich.backfill_sessions(%L)', 'al.w' || n); EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    CREATE TABLE al.args (ip inet, t timestamptz, snapshot_asn bigint, snapshot_country text, snapshot_ip_type text, enrichment jsonb, enrichment_at timestamptz);
    FOREACH arg IN ARRAY ARRAY['', '''ctid''', '''tableoid'', ''xmin''', '''ip'', ''cmin''', '''nix'', ''nix''', '''ip''', '''ip'',''t'',''canonical'',''x'',''y''', '''snapshot_asn'',''enrichment''', quote_literal(repeat('x', 5000)), '''enrichment_at'', ''ip''', '''snapshot_country'''] LOOP
        FOREACH kind IN ARRAY ARRAY['BEFORE INSERT ON al.args FOR EACH ROW', 'BEFORE DELETE ON al.args FOR EACH ROW', 'AFTER INSERT ON al.args FOR EACH STATEMENT', 'BEFORE TRUNCATE ON al.args FOR EACH STATEMENT', 'AFTER DELETE ON al.args FOR EACH ROW'] LOOP
            FOREACH t IN ARRAY ARRAY['enrich_session', 'forget_sessions'] LOOP
                BEGIN
                    EXECUTE format('CREATE TRIGGER z %s EXECUTE FUNCTION enrich.%s(%s)', kind, t, arg);
                    BEGIN INSERT INTO al.args (ip) VALUES ('8.8.8.8'); EXCEPTION WHEN OTHERS THEN NULL; END;
                    BEGIN DELETE FROM al.args; EXCEPTION WHEN OTHERS THEN NULL; END;
                    BEGIN TRUNCATE al.args; EXCEPTION WHEN OTHERS THEN NULL; END;
                    RAISE EXCEPTION 'undo';
                EXCEPTION WHEN OTHERS THEN NULL;
                END;
            END LOOP;
        END LOOP;
    END LOOP;
END $$;
-- fails
SELECT enrich.enrich_session();
INSERT INTO alive VALUES (1);
-- as postgres
CREATE TEMP TABLE alive (x int);
-- fails
CALL enrich.refresh_session_counts();
INSERT INTO alive VALUES (1);
SELECT 'safe';
