-- Schedules procedures with pg_cron if pg_cron is installed. The extension does not need pg_cron, because any other
-- scheduler can run the same statements.

-- Each job contains only one statement. pg_cron runs several statements of a job in one transaction, and a procedure
-- cannot commit in such a transaction.
CREATE VIEW default_schedule AS
    SELECT j.jobname, j.schedule, j.command, j.purpose
    FROM (VALUES
        ('cowrie_enrich_fold', '*/5 * * * *',
         'CALL @extschema@.fold_statistics()',
         'adds pending counts to the inventories; a running worker does the same'),
        ('cowrie_enrich_reload_mmdb', '7 * * * *',
         'SELECT @extschema@.reload_mmdb()',
         'loads new mmdb files, even if no address is looked up'),
        ('cowrie_enrich_refresh_stale', '17 * * * *',
         'CALL @extschema@.refresh_stale()',
         'renews expired answers, the answers about the most active addresses first'),
        ('cowrie_enrich_build_asn_inventory', '30 3 * * *',
         'CALL @extschema@.build_asn_inventory(progress => false)',
         'creates and completes the networks that documents in ip_inventory.enrichment name'),
        ('cowrie_enrich_refresh_session_counts', '45 3 * * 0',
         'CALL @extschema@.refresh_session_counts()',
         'recounts sessions and addresses, and corrects the counts in the inventories'),
        ('cowrie_enrich_clean_rejected', '15 4 * * *',
         'DELETE FROM @extschema@.rejected_row WHERE rejected_at < now() - interval ''90 days''',
         'deletes rows of rejected_row after 90 days'),
        ('cowrie_enrich_clean_runs', '20 4 * * *',
         'DELETE FROM cron.job_run_details d USING cron.job j WHERE j.jobid = d.jobid AND starts_with(j.jobname::text, ''cowrie_enrich'') AND d.end_time < now() - interval ''7 days''',
         'deletes rows about these jobs from cron.job_run_details after 7 days, because pg_cron never deletes these rows')
    ) j(jobname, schedule, command, purpose);
COMMENT ON VIEW default_schedule IS
    'maintenance jobs that schedule_defaults() creates in pg_cron; you can also run the commands with another scheduler, or with pg_cron in another database';
COMMENT ON COLUMN default_schedule.schedule IS
    'minute, hour, day, month and day of the week, as in crontab; pg_cron uses GMT unless cron.timezone is set';

CREATE FUNCTION schedule_defaults(expire_after interval DEFAULT NULL, OUT jobname text, OUT schedule text, OUT command text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job record;
    here CONSTANT text := current_database();
    home CONSTANT text := (SELECT s.setting FROM pg_settings s WHERE s.name = 'cron.database_name');
    problem text;
    way text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        IF NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = 'pg_cron') THEN
            problem := 'pg_cron is not available on this server.';
            way := format('Install pg_cron (Debian: postgresql-%s-cron), or run the statements of the view default_schedule with another scheduler.',
                current_setting('server_version_num')::integer / 10000);
        ELSIF home IS NULL THEN
            problem := 'shared_preload_libraries does not contain pg_cron.';
            way := format('Set shared_preload_libraries = ''pg_cron,cowrie_enrich'' and cron.database_name = ''%s'', restart the server, and run CREATE EXTENSION pg_cron.', here);
        ELSIF home = here THEN
            problem := 'The library pg_cron is loaded, but the extension pg_cron does not exist in this database.';
            way := 'Run CREATE EXTENSION pg_cron as a superuser.';
        ELSE
            problem := format('pg_cron keeps its jobs in database "%s".', home);
            way := format('In database "%s", schedule the jobs of the view default_schedule with cron.schedule_in_database(); see docs/scheduling.md.', home);
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('pg_cron is not installed in database "%s"', here), DETAIL = problem, HINT = way;
    END IF;
    IF expire_after <= '0'::interval THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid expire_after', DETAIL = format('The value is %s, but must be positive.', expire_after),
            HINT = 'Use for example ''90 days''.';
    END IF;
    FOR job IN
        SELECT d.jobname, d.schedule, d.command FROM @extschema@.default_schedule d
        UNION ALL
        SELECT 'cowrie_enrich_expire_addresses', '40 4 * * *',
               format('CALL %s.expire_addresses(%L)', '@extschema@', expire_after)
        WHERE expire_after IS NOT NULL
    LOOP
        -- This call replaces an existing job with the same name and role.
        PERFORM cron.schedule(job.jobname, job.schedule, job.command);
        SELECT job.jobname, job.schedule, job.command INTO jobname, schedule, command;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION schedule_defaults(interval) IS
    'schedule the jobs of the view default_schedule with pg_cron in this database, as jobs of the calling role. Replaces jobs of this role that have the same names. If expire_after is not null, also schedules expire_addresses() every night. Returns the jobs';

CREATE FUNCTION unschedule_defaults(OUT jobname text) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        RETURN;
    END IF;
    FOR job IN
        SELECT j.jobid, j.jobname FROM cron.job j
        WHERE j.database = current_database() AND j.username = current_user
          AND (j.jobname = 'cowrie_enrich_expire_addresses'
               OR j.jobname IN (SELECT d.jobname FROM @extschema@.default_schedule d))
        ORDER BY j.jobid
    LOOP
        PERFORM cron.unschedule(job.jobid);
        jobname := job.jobname;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION unschedule_defaults() IS
    'remove from pg_cron the jobs of schedule_defaults() that belong to the calling role and this database; returns the removed jobs';
