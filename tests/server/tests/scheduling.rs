//! Scheduled jobs: a real pg_cron runs them, in both of its modes.
//!
//! Debian's pg_cron runs jobs on the minute, so these tests take at least that long.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::documentation::{blocks_of, page};
use server_tests::hosts::COWRIE;
use server_tests::installation::{installation, workspace};
use server_tests::recount::assert_counts_are_exact;
use server_tests::wait::wait_up_to;
use server_tests::{Cluster, Database, Options, database};

/// The time to the next full minute, and the time of the jobs.
const NEXT_MINUTE: Duration = Duration::from_secs(90);

const JOBS: [&str; 7] = [
    "cowrie_enrich_build_asn_inventory",
    "cowrie_enrich_clean_rejected",
    "cowrie_enrich_clean_runs",
    "cowrie_enrich_fold",
    "cowrie_enrich_refresh_session_counts",
    "cowrie_enrich_refresh_stale",
    "cowrie_enrich_reload_mmdb",
];

/// Returns true if pg_cron is installed. For Debian, scripts/install-deps installs it or records that it cannot.
/// Another PostgreSQL may lack it.
fn pg_cron_is_there(test: &str) -> bool {
    let library = installation().pkglibdir.join("pg_cron.so");
    if library.exists() {
        return true;
    }
    let (version, major) = (&installation().version, installation().major);
    // If the version was unpacked for the tests, only PostgreSQL itself was unpacked.
    let is_installed = Path::new("/usr/lib/postgresql").join(major.to_string()).exists();
    let is_offered = version.contains("Debian")
        && is_installed
        && !workspace().join(format!("target/no-postgresql-{major}-cron")).exists();
    assert!(!is_offered, "no {}: run scripts/install-deps, then scripts/private-postgres", library.display());
    // Not by a macro, because the test harness would capture its output.
    let _ = writeln!(std::io::stderr(), "{test} is skipped: {version} has no pg_cron");
    false
}

/// Starts a server with pg_cron. Returns the database with the jobs, too.
fn cluster_with_cron(name: &str, setting: impl Fn(&Cluster) -> String) -> (Cluster, String) {
    let cluster = cluster_with_world(&Options::named(name));
    let home = fresh_database(&cluster).name.clone();
    cluster.stop_fast();
    cluster.configure(&[
        "shared_preload_libraries = 'pg_cron,cowrie_enrich'".to_owned(),
        format!("cron.database_name = '{home}'"),
        "max_worker_processes = 24".to_owned(),
        setting(&cluster),
    ]);
    cluster.start_again();
    (cluster, home)
}

fn by_connections(cluster: &Cluster) -> String {
    format!("cron.host = '{}'", cluster.socket_dir().display())
}

#[test]
fn pg_cron_fires_every_default_job_over_connections_and_it_succeeds() {
    if pg_cron_is_there("pg_cron_fires_every_default_job_over_connections_and_it_succeeds") {
        fire_default_jobs("scheduling-libpq", by_connections);
    }
}

#[test]
fn pg_cron_fires_every_default_job_in_background_workers_and_it_succeeds() {
    if pg_cron_is_there("pg_cron_fires_every_default_job_in_background_workers_and_it_succeeds") {
        fire_default_jobs("scheduling-workers", |_| "cron.use_background_workers = on".to_owned());
    }
}

/// Number of addresses with pending counts.
const COUNTS: i64 = 50_100;

fn fire_default_jobs(name: &str, setting: impl Fn(&Cluster) -> String) {
    let (cluster, home) = cluster_with_cron(name, setting);
    let mut db = cluster.session(&home);
    COWRIE.create_attached(&mut db);
    // Leaves pending counts of known addresses. There are more counts than one batch, so the procedure must be able
    // to commit. A transaction with more addresses than a backend remembers would not create the addresses itself.
    for round in ["a", "b"] {
        for first in (1..=COUNTS).step_by(8_350) {
            db.run(&format!(
                "INSERT INTO sessions (id, starttime, ip)
                     SELECT '{round}' || n, '2024-05-01', host('8.8.0.0'::inet + n)
                     FROM generate_series({first}, {first} + 8349) n"
            ));
        }
    }
    db.run(
        "CREATE EXTENSION pg_cron;
         INSERT INTO rejected_row (procedure, relation, row_key, reason, rejected_at) VALUES
             ('import_inventory', 't', 'old', 'x', now() - interval '100 days'),
             ('import_inventory', 't', 'new', 'x', now() - interval '80 days');
         SELECT schedule_defaults();
         INSERT INTO cron.job_run_details (jobid, runid, status, end_time)
             SELECT jobid, -jobid, 'old', now() - interval '8 days' FROM cron.job;
         INSERT INTO cron.job_run_details (jobid, runid, status, end_time)
             VALUES (-1, -100, 'of others', now() - interval '8 days')",
    );
    let mut other = schedule_for_another(&cluster, &home);
    // Other jobs of the other database are never due. These jobs are due every minute.
    db.run(
        "UPDATE cron.job SET schedule = CASE
             WHEN database = current_database() OR command LIKE '%refresh_stale%' THEN '* * * * *'
             ELSE '0 0 31 2 *' END",
    );
    assert_eq!(db.number("SELECT count(*) FROM session_delta"), COUNTS);

    let mut expected: Vec<String> = JOBS
        .iter()
        .map(|job| format!("{job}|succeeded|{home}|postgres"))
        .chain([format!("cowrie_enrich_refresh_stale|succeeded|{}|postgres", other.name)])
        .collect();
    expected.sort();
    let finished = "SELECT DISTINCT split_part(j.jobname, '@', 1), d.status, d.database, d.username
                    FROM cron.job_run_details d JOIN cron.job j USING (jobid)
                    WHERE d.status IN ('succeeded', 'failed')";
    let mut runs = wait_up_to(
        NEXT_MINUTE,
        "all jobs have run",
        || db.rows(finished),
        |runs| runs.len() >= expected.len(),
    );
    for run in db.rows(
        "SELECT j.jobname, d.status, d.return_message, d.start_time, d.command
         FROM cron.job_run_details d JOIN cron.job j USING (jobid) WHERE d.runid > 0 ORDER BY d.start_time",
    ) {
        println!("{name}: {run}");
    }
    runs.sort();
    assert_eq!(runs, expected, "{}", cluster.log());

    // Each job did its work.
    assert_eq!(db.number("SELECT count(*) FROM session_delta"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    let calls = "SELECT procedure, ended_at IS NOT NULL FROM procedure_call ORDER BY 1";
    assert_eq!(db.rows(calls), ["build_asn_inventory|t", "refresh_session_counts|t", "refresh_stale|t"]);
    assert_eq!(other.rows(calls), ["refresh_stale|t"]);
    assert_eq!(db.rows("SELECT row_key FROM rejected_row"), ["new"]);
    assert_eq!(db.rows("SELECT status FROM cron.job_run_details WHERE runid < 0"), ["of others"]);
}

/// Schedules as `docs/scheduling.md` describes for a pg_cron in another database. Returns the database of the jobs.
fn schedule_for_another<'a>(cluster: &'a Cluster, home: &str) -> Database<'a> {
    let mut other = fresh_database(cluster);
    let refusal = other.refused("SELECT schedule_defaults()");
    assert_eq!(refusal.code, "0A000");
    assert_eq!(refusal.detail, Some(format!("pg_cron keeps its jobs in database \"{home}\".")));
    let statements = other.rows(&block_with("schedule_in_database").replace("cowrie_enrich.", "enrich."));
    assert_eq!(statements.len(), JOBS.len() - 1, "{statements:?}");
    cluster.session(home).run(&statements.join("\n"));
    other
}

#[test]
fn scheduling_again_replaces_the_jobs_and_unscheduling_removes_only_them() {
    if !pg_cron_is_there("scheduling_again_replaces_the_jobs_and_unscheduling_removes_only_them") {
        return;
    }
    let (cluster, home) = cluster_with_cron("scheduling-names", by_connections);
    let mut db = cluster.session(&home);
    let refusal = db.refused("SELECT schedule_defaults()");
    assert_eq!(refusal.code, "0A000");
    assert_eq!(refusal.hint.as_deref(), Some("Run CREATE EXTENSION pg_cron as a superuser."));
    assert_eq!(db.rows("SELECT unschedule_defaults()"), [""; 0]);

    db.run("CREATE EXTENSION pg_cron");
    let scheduled = db.rows("SELECT * FROM schedule_defaults() ORDER BY jobname");
    let names: Vec<&str> =
        scheduled.iter().map(|row| row.split('|').next().expect("a row has a name")).collect();
    assert_eq!(names, JOBS);
    let there = "SELECT jobname, schedule, command FROM cron.job ORDER BY jobname";
    assert_eq!(db.rows(there), scheduled);

    db.run("UPDATE cron.job SET schedule = '1 2 3 4 5' WHERE jobname = 'cowrie_enrich_fold'");
    db.run("SELECT cron.schedule('cowrie_enrich_of_mine', '0 0 1 1 *', 'SELECT 1')");
    db.run("SELECT schedule_defaults()");
    // Nothing expires unless that is wanted.
    let expiry = "SELECT schedule, command FROM cron.job WHERE jobname = 'cowrie_enrich_expire_addresses'";
    assert_eq!(db.rows(expiry), [""; 0]);
    assert_eq!(db.refused("SELECT schedule_defaults('-1 day')").code, "22023");
    db.run("SELECT schedule_defaults(expire_after => '90 days 12:00')");
    let [row] = &db.rows(expiry)[..] else { panic!("one job expires addresses") };
    let (schedule, command) = row.split_once('|').expect("two columns");
    assert_eq!(schedule, "40 4 * * *");
    assert!(command.ends_with("expire_addresses('90 days 12:00:00')"), "{command}");
    let status = "SELECT last_expiry IS NOT NULL, is_scheduled FROM erasure_status()";
    assert_eq!(db.one(status), "f|t");
    db.run(command);
    assert_eq!(db.one(status), "t|t");
    // An inactive job and a job for another database do not count.
    for change in ["active = false", "database = 'other'"] {
        db.run(&format!(
            "BEGIN; UPDATE cron.job SET {change} WHERE jobname = 'cowrie_enrich_expire_addresses'"
        ));
        assert_eq!(db.one(status), "t|f", "{change}");
        db.run("ROLLBACK");
    }
    db.run("SELECT cron.unschedule('cowrie_enrich_expire_addresses'); SELECT schedule_defaults(expire_after => '1 year')");
    assert_eq!(db.rows("SELECT * FROM unschedule_defaults() ORDER BY 1").len(), JOBS.len() + 1);
    assert_eq!(db.one(status), "t|f");
    db.run("SELECT schedule_defaults()");
    assert_eq!(db.rows(&there.replace("ORDER", "WHERE jobname <> 'cowrie_enrich_of_mine' ORDER")), scheduled);

    assert_eq!(db.rows("SELECT * FROM unschedule_defaults() ORDER BY 1"), JOBS);
    assert_eq!(db.rows("SELECT jobname FROM cron.job"), ["cowrie_enrich_of_mine"]);
}

#[test]
fn jobs_are_those_of_the_role_that_scheduled_them() {
    if !pg_cron_is_there("jobs_are_those_of_the_role_that_scheduled_them") {
        return;
    }
    let (cluster, home) = cluster_with_cron("scheduling-roles", by_connections);
    let mut db = cluster.session(&home);
    db.run(
        "CREATE EXTENSION pg_cron;
         CREATE ROLE operator LOGIN;
         GRANT USAGE ON SCHEMA enrich, cron TO operator",
    );
    let mut operator = cluster.session_as(&home, "operator");
    assert_eq!(operator.refused("SELECT enrich.schedule_defaults()").code, "42501");
    db.run(
        "GRANT SELECT ON default_schedule TO operator;
         GRANT EXECUTE ON FUNCTION schedule_defaults(interval), unschedule_defaults() TO operator;
         SELECT schedule_defaults()",
    );
    operator.run("SELECT enrich.schedule_defaults()");
    assert_eq!(
        db.rows("SELECT username, count(*) FROM cron.job GROUP BY 1 ORDER BY 1"),
        ["operator|7", "postgres|7"]
    );
    assert_eq!(operator.rows("SELECT enrich.unschedule_defaults()").len(), 7);
    assert_eq!(db.rows("SELECT username, count(*) FROM cron.job GROUP BY 1"), ["postgres|7"]);
}

#[test]
fn without_pg_cron_it_says_how_to_get_it() {
    let mut db = database();
    let refusal = db.refused("SELECT schedule_defaults()");
    assert_eq!(refusal.code, "0A000");
    assert_eq!(refusal.message, format!("pg_cron is not installed in database \"{}\"", db.name));
    let hint = refusal.hint.expect("a hint");
    if db.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'") == 1 {
        assert_eq!(refusal.detail.as_deref(), Some("shared_preload_libraries does not contain pg_cron."));
        assert!(hint.contains("shared_preload_libraries = 'pg_cron,cowrie_enrich'"), "{hint}");
        assert!(hint.contains(&format!("cron.database_name = '{}'", db.name)), "{hint}");
    } else {
        assert_eq!(refusal.detail.as_deref(), Some("pg_cron is not available on this server."));
        assert!(hint.contains("default_schedule"), "{hint}");
    }
    assert_eq!(db.rows("SELECT unschedule_defaults()"), [""; 0]);
    assert_eq!(db.rows("SELECT jobname FROM default_schedule ORDER BY 1"), JOBS);
}

#[test]
fn every_default_command_can_be_run_by_another_clock() {
    let mut db = database();
    for job in db.rows("SELECT jobname FROM default_schedule WHERE jobname <> 'cowrie_enrich_clean_runs'") {
        let command = db.one(&format!("SELECT command FROM default_schedule WHERE jobname = '{job}'"));
        // The session that runs it has another search path.
        db.cluster.session_with(&db.name, "postgres", "pg_catalog").run(&command);
    }
}

#[test]
fn every_recipe_of_the_documentation_runs() {
    if !pg_cron_is_there("every_recipe_of_the_documentation_runs") {
        return;
    }
    let (cluster, home) = cluster_with_cron("scheduling-docs", by_connections);
    let mut admin = cluster.session(&home);
    admin.run(
        "DROP EXTENSION cowrie_enrich CASCADE; CREATE SCHEMA cowrie_enrich;
         CREATE EXTENSION cowrie_enrich SCHEMA cowrie_enrich",
    );
    let blocks = blocks();
    assert!(blocks.len() >= 4, "{} blocks", blocks.len());
    for block in blocks {
        run_by_psql(&cluster, &home, &block);
    }
    assert_eq!(admin.rows("SELECT jobname FROM cron.job"), [""; 0], "the recipes end where they began");
}

fn run_by_psql(cluster: &Cluster, database: &str, sql: &str) {
    let script = cluster.files().join("recipe.sql");
    std::fs::write(&script, sql).expect("the script can be written");
    let mut psql = cluster.program("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"]).arg(&script);
    let output = psql.output().expect("psql runs");
    assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn block_with(word: &str) -> String {
    blocks()
        .into_iter()
        .find(|block| block.contains(word))
        .unwrap_or_else(|| panic!("docs/scheduling.md has no block with {word}"))
}

/// Returns the page's blocks of SQL.
fn blocks() -> Vec<String> {
    blocks_of(&page("docs/scheduling.md")).into_iter().map(|block| block.sql).collect()
}
