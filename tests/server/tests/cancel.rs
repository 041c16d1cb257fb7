//! Every call that can take long or wait can be stopped: by statement_timeout, lock_timeout, a cancellation, a
//! termination or idle_in_transaction_session_timeout. A stopped call leaves no partial work, and the same call works
//! afterwards.

use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{Behaviour, Fault};
use server_tests::cymru::{Lab, assert_nothing_crashed};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::hosts::COWRIE;
use server_tests::python_system::{self, PythonSchema, Size};
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::Files;
use server_tests::{Database, Options, database, shared, wait_until};

/// Calls that take longer to stop are considered to hang. On an idle machine all take milliseconds.
const SOON: Duration = Duration::from_secs(15);

const SESSIONS: u32 = 20_000;

/// Creates an attached table with sessions that are not counted yet, each of another address.
fn crowd() -> Database<'static> {
    let mut db = database();
    db.run(&format!(
        "CREATE TABLE s (id int PRIMARY KEY, source_ip inet, day date DEFAULT '2024-05-01');
         INSERT INTO s SELECT n, '23.0.0.0'::inet + n FROM generate_series(1, {SESSIONS}) n;
         SELECT enrich.attach_session_table('s', 'source_ip', 'day')"
    ));
    db
}

/// Runs a statement, and stops it while it works. Returns the SQLSTATE, or `None` if the statement ended before it
/// was stopped.
fn stopped(db: &Database<'_>, statement: &str, how: &str) -> Option<String> {
    let mut session = db.another();
    let pid = session.backend_pid();
    let mut watcher = db.another();
    let statement = statement.to_owned();
    let is_timeout = how == "statement_timeout";
    if is_timeout {
        session.run("SET statement_timeout = 40");
    }
    // A statement that ends before the stop is rolled back. Procedures commit by themselves.
    let (begin, end) =
        if statement.starts_with("CALL") { ("SELECT 1", "SELECT 1") } else { ("BEGIN", "ROLLBACK") };
    let running = std::thread::spawn(move || {
        session.run(begin);
        (session.try_run(&statement), session.try_run(end))
    });
    if !is_timeout {
        let runs = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE pid = {pid} AND state = 'active' AND now() - query_start > '20 ms'"
        );
        wait_until(
            "it runs, or has run",
            || running.is_finished() || watcher.one(&runs) == "1",
            |runs_or_ran| *runs_or_ran,
        );
        watcher.run(&format!("SELECT {how}({pid})"));
    }
    let since = Instant::now();
    wait_until("it has ended", || running.is_finished(), |ended| *ended);
    assert!(since.elapsed() < SOON, "{how} took {:?}", since.elapsed());
    let (end, after) = running.join().expect("no panic");
    let refusal = end.err()?;
    // The connection survives a cancellation.
    assert_eq!(after.is_ok(), how != "pg_terminate_backend", "{refusal:?} {after:?}");
    Some(refusal.code)
}

/// A terminated client may see the end of the connection before the message with the reason.
fn is_end_by(end: &str, code: &str) -> bool {
    end == code || (code == "57P01" && end == "08006")
}

const STOPS: [(&str, &str); 3] =
    [("statement_timeout", "57014"), ("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")];

#[test]
fn everything_that_works_long_stops_when_it_is_told_to() {
    let mut db = crowd();
    db.run(&format!(
        "CREATE TABLE unattached (id int, source_ip inet);
         INSERT INTO unattached SELECT n, '24.0.0.0'::inet + n FROM generate_series(1, {SESSIONS}) n;
         CREATE SCHEMA python"
    ));
    python_system::create(&mut db, "python", PythonSchema::Migrations);
    python_system::fill(&mut db, "python", 7, Size { networks: 500, addresses: 3_000, sessions: 6_000 });
    let mut stops = 0;
    for statement in [
        "SELECT count(enrich.enrich_ip('25.0.0.0'::inet + n)) FROM generate_series(1, 1000000) n",
        "SELECT count(enrich.maxmind_lookup('25.0.0.0'::inet + n)) FROM generate_series(1, 10000000) n",
        "SELECT count(*) FROM enrich.enrich_ips(ARRAY(SELECT '25.0.0.0'::inet + n FROM generate_series(1, 300000) n))",
        "SELECT count(enrich.ensure_asn_inventory(n)) FROM generate_series(1, 300000) n",
        "SELECT count(enrich.request_enrichment('25.0.0.0'::inet + n, 'cymru')) FROM generate_series(1, 1000000) n",
        "SELECT count(enrich.prometheus_metrics()), count(enrich.status_json()) FROM generate_series(1, 100000)",
        "SELECT count((enrich.asn_inventory_size()).total_asns) FROM generate_series(1, 10000000)",
        "SELECT count(*) FROM generate_series(1, 10000000) n, LATERAL enrich.enrich_metrics() WHERE n > 0",
        "INSERT INTO s SELECT n, '25.0.0.0'::inet + n FROM generate_series(1000000, 2000000) n",
        "UPDATE s SET source_ip = source_ip + 1000000",
        "DELETE FROM s",
        "DO $$BEGIN FOR n IN 1..1000 LOOP BEGIN TRUNCATE s; RAISE 'back'; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END$$",
        "DO $$BEGIN FOR n IN 1..1000 LOOP PERFORM enrich.attach_session_table('unattached'), enrich.detach_session_table('unattached'); END LOOP; END$$",
        "DO $$BEGIN FOR n IN 1..1000 LOOP PERFORM * FROM enrich.campaign_networks('s'); END LOOP; END$$",
        "CALL enrich.backfill_sessions('s', 500)",
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.add_session_foreign_key('s')",
        "CALL enrich.fold_statistics()",
        "CALL enrich.build_asn_inventory(50)",
        "CALL enrich.refresh_stale('maxmind', 1000000)",
        "CALL enrich.import_inventory('python')",
        "CALL enrich.backfill_sessions('s', 1000000)",
    ] {
        for (how, code) in STOPS {
            if statement.contains("fold_statistics") {
                // Adds pending counts whose sum is zero for each address.
                db.run(
                    "INSERT INTO enrich.session_delta
                     SELECT '23.0.0.0'::inet + n % 20000 + 1, CASE WHEN n < 60000 THEN 1 ELSE -1 END, NULL, NULL
                     FROM generate_series(0, 119999) n",
                );
            }
            if statement.contains("refresh_stale") {
                db.run("UPDATE enrich.ip_inventory SET enrichment = '{}'");
            }
            let end = stopped(&db, statement, how);
            eprintln!("{how:20} {} {statement:.80}", end.as_deref().unwrap_or("came to its end"));
            stops += i32::from(end.is_some());
            assert!(end.as_deref().is_none_or(|end| is_end_by(end, code)), "{how}: {end:?} {statement}");
            assert_eq!(db.one("SELECT count(*) FROM s"), SESSIONS.to_string(), "{how}: {statement}");
        }
    }
    assert!(stops >= 48, "only {stops} of 66 were stopped in the middle");
    // No call is shown in progress, no lock is held, and each procedure works.
    assert_eq!(db.rows("SELECT procedure FROM enrich.enrich_progress"), [""; 0]);
    let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE locktype = 'advisory' AND datname = current_database()";
    wait_until("nobody holds anything", || db.one(held), |held| held == "0");
    for call in [
        "import_inventory('python')",
        "backfill_sessions('s')",
        "refresh_session_counts()",
        "add_session_foreign_key('s')",
        "build_asn_inventory()",
        "refresh_stale()",
        "fold_statistics()",
    ] {
        db.run(&format!("CALL enrich.{call}"));
    }
    let python =
        db.rows("SELECT rel::text, ip_column FROM enrich.attached_tables WHERE rel <> 's'::regclass");
    let mut tables = vec![("s", "source_ip")];
    let python: Vec<Vec<&str>> = python.iter().map(|row| row.split('|').collect()).collect();
    tables.extend(python.iter().map(|row| (row[0], row[1])));
    assert_counts_are_exact(&mut db.another(), &tables);
}

/// A call that waits for another transaction's lock is in the middle of its work.
#[test]
fn whoever_waits_for_a_lock_can_be_stopped() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run("INSERT INTO sessions (id, starttime, ip) SELECT n, '2024-05-01', '8.8.8.' || n FROM generate_series(1, 50) n");
    let mut holder = db.another();
    let calls: &[(&str, &str)] = &[
        ("enrich.ip_inventory", "SELECT enrich.enrich_ip('8.8.4.4')"),
        ("enrich.asn_inventory", "SELECT enrich.enrich_ip('1.1.1.1')"),
        ("enrich.ip_inventory", "SELECT * FROM enrich.enrich_ips('{8.8.4.4}')"),
        ("enrich.asn_inventory", "SELECT enrich.ensure_asn_inventory(64500)"),
        ("enrich.enrichment_request", "SELECT enrich.request_enrichment('8.8.4.4', 'cymru')"),
        ("enrich.dead_letter", "SELECT enrich.retry_dead_letters()"),
        ("enrich.enrichment_job", "SELECT enrich.prometheus_metrics()"),
        ("enrich.session_delta", "CALL enrich.fold_statistics()"),
        ("enrich.ip_inventory", "CALL enrich.refresh_session_counts()"),
        ("enrich.ip_inventory", "CALL enrich.build_asn_inventory()"),
        ("enrich.ip_inventory", "CALL enrich.refresh_stale('maxmind')"),
        ("enrich.procedure_call", "CALL enrich.backfill_sessions('sessions')"),
        ("enrich.ip_inventory", "CALL enrich.backfill_sessions('sessions')"),
        ("sessions", "CALL enrich.backfill_sessions('sessions')"),
        ("sessions", "SELECT enrich.attach_session_table('sessions', 'ip', 'starttime')"),
        ("sessions", "SELECT enrich.detach_session_table('sessions')"),
        ("sessions", "SELECT enrich.campaign_networks('sessions')"),
        ("sessions", "SELECT enrich.index_session_table('sessions')"),
        ("sessions", "TRUNCATE sessions"),
    ];
    for (table, statement) in calls {
        holder.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
        for (how, code) in [
            ("statement_timeout", "57014"),
            ("lock_timeout", "55P03"),
            ("pg_cancel_backend", "57014"),
            ("pg_terminate_backend", "57P01"),
        ] {
            let mut session = db.another();
            let pid = session.backend_pid();
            if how.ends_with("timeout") {
                session.run(&format!("SET {how} = 30"));
            }
            let run = (*statement).to_owned();
            let running = std::thread::spawn(move || session.try_run(&run));
            if !how.ends_with("timeout") {
                wait_until(
                    "it waits",
                    || {
                        holder
                            .one(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted"))
                    },
                    |waiting| waiting != "0",
                );
                holder.run(&format!("SELECT {how}({pid})"));
            }
            let since = Instant::now();
            wait_until("it has ended", || running.is_finished(), |ended| *ended);
            assert!(since.elapsed() < SOON, "{how} took {:?}: {statement}", since.elapsed());
            let end = running.join().expect("no panic").map_err(|refusal| refusal.code);
            // Metrics wait at most a second for a lock, and then show values that the worker has reported.
            let needs_no_lock = how == "lock_timeout" && statement.contains("prometheus_metrics()");
            let is_stopped = end.as_ref().is_err_and(|end| is_end_by(end, code));
            assert!(
                is_stopped || needs_no_lock && end.is_ok(),
                "{how}: {end:?} {statement} behind a lock of {table}"
            );
        }
        holder.run("ROLLBACK");
        assert_eq!(db.one("SELECT count(*) FROM sessions"), "50", "{statement}");
    }
    db.run("CALL enrich.backfill_sessions('sessions')");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_nothing_crashed(shared());
}

#[test]
fn a_session_that_waits_behind_our_tables_is_stopped_or_stored() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut holder = db.another();
    for table in ["enrich.ip_inventory", "enrich.asn_inventory", "enrich.session_delta"] {
        holder.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
        for (n, how) in ["pg_cancel_backend", "pg_terminate_backend"].into_iter().enumerate() {
            let mut session = db.another();
            let pid = session.backend_pid();
            let insert = COWRIE.insert(&[(&format!("{table}{n}"), Some("1.1.1.1"))]).replace("enrich.", "");
            let running = std::thread::spawn(move || session.try_run(&insert));
            wait_until(
                "it waits, or did not",
                || {
                    running.is_finished()
                        || holder
                            .one(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted"))
                            != "0"
                },
                |waiting| *waiting,
            );
            holder.run(&format!("SELECT {how}({pid})"));
            let since = Instant::now();
            wait_until("it has ended", || running.is_finished(), |ended| *ended);
            assert!(since.elapsed() < SOON, "{how} took {:?} behind {table}", since.elapsed());
            let _ = running.join().expect("no panic");
        }
        holder.run("ROLLBACK");
    }
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn an_idle_transaction_that_is_ended_leaves_nothing() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let mut session = db.another();
    let pid = session.backend_pid();
    session.run(&format!(
        "SET idle_in_transaction_session_timeout = 30; BEGIN; {}; SAVEPOINT s; {}; SELECT enrich.enrich_ip('139.59.0.1')",
        COWRIE.insert(&[("a", Some("8.8.8.8"))]),
        COWRIE.insert(&[("b", Some("1.1.1.1"))])
    ));
    wait_until(
        "it is gone",
        || db.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")),
        |there| there == "0",
    );
    assert!(["25P03", "08006"].contains(&session.refused("SELECT 1").code.as_str()));
    assert_eq!(db.one("SELECT count(*) FROM enrich.ip_inventory"), "0");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn a_question_that_nobody_answers_can_be_stopped_and_gives_its_permit_back() {
    let lab = Lab::start(
        Options::named("cancel-lookup")
            .conf("cowrie_enrich.cymru_max_connections = 1")
            .conf("cowrie_enrich.cymru_timeout = 600s"),
    );
    let mut db = lab.database();
    lab.whois.behave(Fault::Silent);
    for (how, code) in
        [("statement_timeout", "57014"), ("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")]
    {
        // Calls the function twice. If the first call had kept its permit, the second call would wait for that
        // permit.
        for _ in 0..2 {
            let mut session = db.another();
            let pid = session.backend_pid();
            if how == "statement_timeout" {
                session.run("SET statement_timeout = 100");
            }
            let running = std::thread::spawn(move || {
                session.try_run("SELECT * FROM enrich.cymru_lookup('{60.0.0.7}')")
            });
            if how != "statement_timeout" {
                wait_until(
                    "it is asked",
                    || db.one("SELECT in_flight FROM enrich.provider_status() WHERE provider = 'cymru'"),
                    |flying| flying == "1",
                );
                db.run(&format!("SELECT {how}({pid})"));
            }
            let since = Instant::now();
            wait_until("it has ended", || running.is_finished(), |ended| *ended);
            assert!(since.elapsed() < SOON, "{how} took {:?}", since.elapsed());
            let end = running.join().expect("no panic").map_err(|refusal| refusal.code);
            assert!(end.as_ref().is_err_and(|end| is_end_by(end, code)), "{how}: {end:?}");
            wait_until(
                "its permit is back",
                || db.one("SELECT in_flight FROM enrich.provider_status() WHERE provider = 'cymru'"),
                |flying| flying == "0",
            );
        }
    }
    lab.whois.behave(Behaviour::normal());
    db.run("SELECT enrich.resume_provider('cymru')");
    assert_ne!(db.one("SELECT asn FROM enrich.cymru_lookup('{60.0.0.7}')"), "NULL");
    lab.assert_nothing_crashed();
}

#[test]
fn what_is_no_file_is_refused_as_a_database_and_not_waited_for() {
    let cluster = cluster_with_world(&Options::named("cancel-files"));
    let mut db = fresh_database(&cluster);
    let pipe = cluster.files().join("pipe.mmdb");
    let made = std::process::Command::new("mkfifo").arg("-m").arg("666").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()));
    for path in [
        pipe.display().to_string(),
        "/dev/zero".to_owned(),
        "/dev/stdin".to_owned(),
        "/proc/self/mem".to_owned(),
        cluster.files().display().to_string(),
    ] {
        cluster.reconfigure(&[format!("cowrie_enrich.city_database = '{path}'")]);
        wait_until(
            "it is known",
            || db.another().one("SHOW cowrie_enrich.city_database"),
            |shown| *shown == path,
        );
        let mut session = cluster.session(&db.name);
        session.run("SET statement_timeout = '20s'");
        let refusal = session.refused("SELECT enrich.reload_mmdb()");
        assert_ne!(refusal.code, "57014", "{path} was waited for: {refusal:?}");
        // The old file stays in service.
        assert_eq!(session.one("SELECT enrich.ip_country('8.8.8.8')"), "US", "{path}");
    }
    let files = Files::below(cluster.files());
    cluster.reconfigure(&[format!("cowrie_enrich.city_database = '{}'", files.city.display())]);
    db.run("SELECT enrich.ip_country('8.8.8.8')");
}
