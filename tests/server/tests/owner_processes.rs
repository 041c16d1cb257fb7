//! Code of table owners runs in separate processes, which may never end. These processes delay neither lookups nor
//! folds nor other owners.

use std::net::IpAddr;
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, Fault, synthetic_asn, synthetic_country};
use server_tests::cymru::{Lab, member, members, queue, state, wait_for_the_queue, worker_pid};
use server_tests::hostile::{IN_BACKGROUND, LOOPS, attach, constrain, create_check};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::wait::wait_up_to;
use server_tests::{Database, Options, Session, wait_until};

fn lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker())
}

fn snapshot(address: IpAddr) -> String {
    let asn = synthetic_asn(address);
    format!("{asn}|{}", synthetic_country(asn))
}

/// A login role that owns a schema of its name.
fn tenant(db: &mut Database<'_>, role: &str) -> Session {
    db.run(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {role} AUTHORIZATION {role}"));
    db.session_as(role)
}

/// Returns a PL/pgSQL statement that takes this number of seconds without checking for interrupts. It is one
/// expression with many products.
fn uninterruptible(db: &mut Session, seconds: f64) -> String {
    // Uses the fastest of five measurements, because a busy machine may be faster later.
    let one = (0..5)
        .map(|_| -> f64 {
            db.one(
                "WITH a AS MATERIALIZED (SELECT clock_timestamp() AS began, repeat('9', 60000)::numeric AS n),
                      b AS MATERIALIZED (SELECT a.began, n * n + n * n + n * n + n * n AS product FROM a)
                 SELECT extract(epoch FROM clock_timestamp() - began) / 4 FROM b WHERE product > 0",
            )
            .parse()
            .expect("seconds")
        })
        .fold(f64::INFINITY, f64::min);
    let products = (seconds / one).ceil() as usize;
    // Adds the products in pairs, because a sum from left to right would be nested too deeply.
    let mut terms = vec!["n * n".to_owned(); products];
    while terms.len() > 1 {
        terms = terms.chunks(2).map(|pair| format!("({})", pair.join(" + "))).collect();
    }
    format!("PERFORM {};", terms.remove(0))
}

fn insert(db: &mut Session, table: &str, id: usize, address: IpAddr) {
    db.run(&format!("INSERT INTO {table} (id, ip) VALUES ({id}, '{address}')"));
}

fn wait_until_complete(db: &mut Session, table: &str, id: usize, address: IpAddr) {
    let row = format!("SELECT snapshot_asn, snapshot_country FROM {table} WHERE id = {id}");
    wait_until("the session is complete", || (db.one(&row), state(db)), |(now, _)| *now == snapshot(address));
}

fn suspended(db: &mut Session) -> Vec<String> {
    db.rows("SELECT owner FROM enrich.suspended_owner ORDER BY 1")
}

fn abandoned(db: &mut Session) -> i64 {
    db.number("SELECT enrich.abandoned_processes()")
}

/// Asserts that addresses are looked up and sessions are counted.
fn assert_work_goes_on(db: &mut Session, table: &str, block: usize) {
    let address = member(block, 9);
    insert(db, table, 1_000_000 + block, address);
    wait_until(
        "the address has its network and the session is counted",
        || {
            let row = format!(
                "SELECT current_asn, session_count FROM enrich.ip_inventory WHERE ip_address = '{address}'"
            );
            (db.rows(&row), state(db))
        },
        |(row, _)| *row == [format!("{}|1", synthetic_asn(address))],
    );
}

/// M-4: neither a cancellation nor SIGTERM ends such code.
#[test]
fn code_that_cannot_be_interrupted_is_abandoned_and_holds_up_nobody() {
    let lab = lab("owner-uninterruptible");
    for kind in ["constraint", "rule"] {
        let mut db = lab.database();
        let (bad, good) = (format!("bad_{kind}"), format!("good_{kind}"));
        tenant(&mut db, &bad);
        tenant(&mut db, &good);
        attach(&mut db, &bad, "s");
        attach(&mut db, &good, "s");
        let code = uninterruptible(&mut db, 120.0);
        create_check(&mut db, &bad, "stuck", &code);
        let worker = worker_pid(&mut db);
        if kind == "constraint" {
            constrain(&mut db, &bad, "s", "stuck");
        } else {
            lab.reconfigure(&["enabled_sources = 'maxmind,cymru,greynoise'", "greynoise_daily_quota = 10"]);
            db.run(&format!(
                "SELECT enrich.set_session_priority('{bad}.s', $$CASE WHEN {bad}.stuck(s.ip::text) THEN 1 END$$)"
            ));
        }
        insert(&mut db, &format!("{bad}.s"), 1, member(1, 1));
        let mut tried = 0;
        wait_until(
            "the code runs",
            || {
                if kind == "rule" {
                    // A rule is evaluated while a lookup waits in the queue.
                    tried += 1;
                    insert(&mut db, &format!("{bad}.s"), 1 + tried, member(1_000 + tried, 1));
                }
                db.number(&format!(
                    "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                     WHERE a.backend_type LIKE 'cowrie%' AND l.relation = '{bad}.s'::regclass
                       AND a.xact_start < clock_timestamp() - interval '2 seconds'"
                ))
            },
            |locks| *locks > 0,
        );
        insert(&mut db, &format!("{good}.s"), 1, member(2, 1));
        wait_until_complete(&mut db, &format!("{good}.s"), 1, member(2, 1));
        assert_work_goes_on(&mut db, &format!("{good}.s"), 3);
        wait_until(
            "the process is abandoned and its owner suspended",
            || (abandoned(&mut db), suspended(&mut db), state(&mut db)),
            |(processes, owners, _)| *processes == 1 && *owners == [bad.clone()],
        );
        // The process holds locks only on the tables of its owner. It can also have an ACCESS SHARE lock on the
        // table of options, where it read whether the owner allows triggers of third roles.
        let locks = "SELECT DISTINCT l.relation::regclass::text FROM pg_locks l
                     JOIN enrich.worker_status w ON w.pid = l.pid AND w.role = 'owner process'
                     JOIN pg_class c ON c.oid = l.relation AND c.relkind = 'r' AND c.relnamespace <> 'pg_catalog'::regnamespace
                     WHERE l.locktype = 'relation' AND w.state LIKE 'abandoned%'
                       AND NOT (c.relname = 'session_table_option' AND l.mode = 'AccessShareLock')";
        assert_eq!(db.rows(locks), [format!("{bad}.s")]);
        insert(&mut db, &format!("{good}.s"), 2, member(4, 1));
        wait_until_complete(&mut db, &format!("{good}.s"), 2, member(4, 1));
        assert_eq!(worker_pid(&mut db), worker);
        if kind == "constraint" {
            assert_eq!(
                db.rows(&format!(
                    "SELECT blocked_reason FROM enrich.completion_status WHERE rel = '{bad}.s'::regclass"
                )),
                [
                    "the owner is suspended: code of the owner, such as a trigger, did not end after the code was cancelled"
                ]
            );
        }
        lab.reconfigure(&["enabled_sources = 'maxmind,cymru'"]);
    }
    lab.assert_nothing_crashed();
}

#[test]
fn the_reason_of_a_failed_completion_is_shown_and_a_call_retries_at_once() {
    let lab = lab("owner-reasons");
    let mut db = lab.database();
    let owner = db.own_name("owner");
    tenant(&mut db, &owner);
    let table = format!("{owner}.s");
    attach(&mut db, &owner, "s");
    for (n, call) in [
        format!("SELECT enrich.resume_owner('{owner}')"),
        format!("CALL enrich.backfill_sessions('{table}')"),
    ]
    .iter()
    .enumerate()
    {
        db.run(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT nothing CHECK (id <> {n} OR snapshot_asn IS NULL)"
        ));
        insert(&mut db, &table, n, member(n, 1));
        let reason = "SELECT blocked_reason FROM enrich.completion_status";
        wait_until(
            "the error is shown",
            || (db.rows(reason), state(&mut db)),
            |(reasons, _)| reasons.iter().any(|reason| reason.contains("check constraint \"nothing\"")),
        );
        db.run(&format!("ALTER TABLE {table} DROP CONSTRAINT nothing"));
        // Only a call of `backfill_sessions()` or `resume_owner()` ends this pause.
        wait_until(
            "no process has leased the row",
            || {
                db.number(
                    "WITH far AS (UPDATE enrich.session_completion SET due_at = now() + interval '1 day', leased_by = NULL
                                  WHERE leased_by IS NULL RETURNING 1)
                     SELECT count(*) FROM far",
                )
            },
            |rows| *rows == 1,
        );
        db.run(call);
        wait_until(
            "nothing is pending",
            || (db.rows("SELECT due_at, last_error FROM enrich.session_completion"), state(&mut db)),
            |(rows, _)| rows.is_empty(),
        );
        wait_until_complete(&mut db, &table, n, member(n, 1));
    }
    lab.assert_nothing_crashed();
}

#[test]
fn a_trigger_of_a_third_role_is_the_reason_that_completion_status_shows() {
    let lab = lab("owner-third-role");
    let mut db = lab.database();
    let (owner, third) = (db.own_name("owner"), db.own_name("third"));
    tenant(&mut db, &owner);
    tenant(&mut db, &third);
    db.run(&format!(
        "CREATE FUNCTION {third}.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         ALTER FUNCTION {third}.noted() OWNER TO {third}"
    ));
    attach(&mut db, &owner, "s");
    db.run(&format!(
        "CREATE TRIGGER noted BEFORE UPDATE ON {owner}.s FOR EACH ROW EXECUTE FUNCTION {third}.noted()"
    ));
    insert(&mut db, &format!("{owner}.s"), 1, member(1, 1));
    let blocked = "SELECT s.blocked_reason = t.blocked_reason
                   FROM enrich.completion_status s JOIN enrich.attached_tables t USING (rel)";
    wait_until(
        "both views name the trigger",
        || (db.rows(blocked), db.rows("SELECT blocked_reason FROM enrich.completion_status")),
        |(are_equal, reasons)| *are_equal == ["t"] && reasons[0].contains("trigger noted on"),
    );
    lab.assert_nothing_crashed();
}

/// M-3: each of the tables takes long, repeatedly.
#[test]
fn two_hundred_slow_tables_delay_neither_another_owners_session_nor_alter_table() {
    let lab = lab("owner-slow");
    let mut db = lab.database();
    tenant(&mut db, "slow");
    tenant(&mut db, "honest");
    create_check(&mut db, "slow", "sleeps", "PERFORM pg_sleep(5);");
    attach(&mut db, "honest", "s");
    for n in 0..200 {
        let table = format!("m{n}");
        attach(&mut db, "slow", &table);
        constrain(&mut db, "slow", &table, "sleeps");
    }
    let address = member(0, 1);
    let rows: Vec<String> =
        (0..200).map(|n| format!("INSERT INTO slow.m{n} (id, ip) VALUES (1, '{address}')")).collect();
    db.run(&format!("BEGIN; {}; COMMIT", rows.join(";")));
    // The code sleeps in a process that holds locks only on the tables of its owner.
    let asleep = "SELECT count(*) FROM pg_stat_activity
                  WHERE backend_type LIKE 'cowrie%' AND wait_event = 'PgSleep'";
    wait_until("the code runs", || (db.number(asleep), state(&mut db)), |(n, _)| *n > 0);
    let others = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type LIKE 'cowrie%' AND a.wait_event = 'PgSleep'
                    AND l.relation IN ('honest.s'::regclass, 'enrich.ip_inventory'::regclass,
                                       'enrich.asn_inventory'::regclass, 'enrich.enrichment_job'::regclass,
                                       to_regclass('enrich.session_completion'))";
    let mut seen = 0;
    for n in 0..10 {
        insert(&mut db, "honest.s", n, member(10 + n, 1));
        wait_until(
            "the session is complete",
            || {
                seen = seen.max(db.number(others));
                let row = format!("SELECT snapshot_asn, snapshot_country FROM honest.s WHERE id = {n}");
                (db.one(&row), state(&mut db))
            },
            |(now, _)| *now == snapshot(member(10 + n, 1)),
        );
        db.run(&format!(
            "SET lock_timeout = '1s'; ALTER TABLE honest.s ADD COLUMN c{n} int; RESET lock_timeout"
        ));
    }
    assert_eq!(seen, 0, "code of an owner runs while locks on other tables are held");
    assert_work_goes_on(&mut db, "honest.s", 100);
    lab.assert_nothing_crashed();
}

/// M-5: forty rules that catch their cancellation.
#[test]
fn forty_rules_that_do_not_end_cost_neither_the_worker_nor_other_owners_anything() {
    let lab = lab("owner-loops");
    let mut db = lab.database();
    lab.reconfigure(&["enabled_sources = 'maxmind,cymru,greynoise'", "greynoise_daily_quota = 1000"]);
    tenant(&mut db, "looping");
    tenant(&mut db, "honest");
    attach(&mut db, "honest", "s");
    db.run(&format!(
        "CREATE FUNCTION looping.loops() RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN
             IF {IN_BACKGROUND} THEN {LOOPS} END IF; RETURN 1; END $$;
         ALTER FUNCTION looping.loops() OWNER TO looping"
    ));
    let worker = worker_pid(&mut db);
    for n in 0..40 {
        attach(&mut db, "looping", &format!("x{n}"));
        db.run(&format!("SELECT enrich.set_session_priority('looping.x{n}', 'looping.loops()')"));
        insert(&mut db, &format!("looping.x{n}"), 1, member(n, 1));
    }
    for n in 0..5 {
        insert(&mut db, "honest.s", n, member(100 + n, 1));
        wait_until_complete(&mut db, "honest.s", n, member(100 + n, 1));
        assert_work_goes_on(&mut db, "honest.s", 200 + n);
    }
    assert_eq!(worker_pid(&mut db), worker, "the worker lives on");
    wait_until("the owner is suspended", || (suspended(&mut db), state(&mut db)), |(s, _)| *s == ["looping"]);
    lab.assert_nothing_crashed();
}

/// L-1: every role may set exit_on_error, which turns an error into the end of the process.
#[test]
fn an_owner_whose_code_ends_its_processes_is_suspended_until_resumed() {
    let lab = lab("owner-exits");
    let mut db = lab.database();
    tenant(&mut db, "exiting");
    attach(&mut db, "exiting", "s");
    create_check(
        &mut db,
        "exiting",
        "exits",
        "PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'dead';",
    );
    constrain(&mut db, "exiting", "s", "exits");
    let worker = worker_pid(&mut db);
    insert(&mut db, "exiting.s", 1, member(0, 1));
    wait_until("the code has ended a process", || lab.cluster.log(), |log| log.contains("FATAL:  dead"));
    assert_eq!(worker_pid(&mut db), worker, "the worker lives on");
    wait_until("the owner is suspended", || (suspended(&mut db), state(&mut db)), |(s, _)| *s == ["exiting"]);
    assert_eq!(
        db.one("SELECT reason FROM enrich.suspended_owner"),
        "code of the owner, such as a trigger, ended its background process 3 times in a row"
    );
    wait_until(
        "the view says why",
        || db.rows("SELECT blocked_reason FROM enrich.completion_status"),
        |reasons| {
            *reasons
                == [
                    "the owner is suspended: code of the owner, such as a trigger, ended its background process 3 times in a row",
                ]
        },
    );
    assert_eq!(worker_pid(&mut db), worker, "the worker lives on");
    db.run("ALTER TABLE exiting.s DROP CONSTRAINT theirs");
    assert_eq!(db.one("SELECT enrich.resume_owner('exiting')"), "t");
    assert_eq!(db.one("SELECT enrich.resume_owner('exiting')"), "f");
    wait_until_complete(&mut db, "exiting.s", 1, member(0, 1));
    lab.assert_nothing_crashed();
}

/// L-2: if the table owner may not connect, the owner is still the session user of the process, and its code cannot
/// change the session user.
#[test]
fn session_user_is_the_owner_whether_or_not_the_owner_may_connect() {
    let lab = lab("owner-session-user");
    let mut db = lab.database();
    let name = db.name.clone();
    for (n, limits) in [
        "",
        "ALTER ROLE %r NOLOGIN",
        "REVOKE CONNECT ON DATABASE %d FROM PUBLIC",
        "GRANT CONNECT ON DATABASE %d TO PUBLIC; ALTER ROLE %r CONNECTION LIMIT 0",
        "ALTER DATABASE %d CONNECTION LIMIT 0",
        "ALTER DATABASE %d CONNECTION LIMIT -1; ALTER ROLE %r SET default_transaction_read_only = on;
         ALTER ROLE %r SET role = pg_read_all_data; ALTER ROLE %r SET search_path = nowhere;
         GRANT pg_read_all_data TO %r",
    ]
    .into_iter()
    .enumerate()
    {
        let role = format!("owner{n}");
        db.run(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {role} AUTHORIZATION {role}"));
        attach(&mut db, &role, "s");
        db.run(&format!(
            "CREATE TABLE {role}.seen (who text, session text, became text);
             ALTER TABLE {role}.seen OWNER TO {role};
             CREATE FUNCTION {role}.note() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 became text := '';
             BEGIN
                 BEGIN
                     RESET SESSION AUTHORIZATION; became := became || ' reset ' || current_user;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     SET SESSION AUTHORIZATION postgres; became := became || ' set ' || current_user;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     SET ROLE postgres; became := became || ' role ' || current_user;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO {role}.seen VALUES (current_user, session_user, became);
                 RETURN NULL;
             END $$;
             ALTER FUNCTION {role}.note() OWNER TO {role};
             CREATE TRIGGER note AFTER UPDATE ON {role}.s FOR EACH ROW EXECUTE FUNCTION {role}.note();
             ALTER TABLE {role}.s ENABLE ALWAYS TRIGGER note"
        ));
        let limits = limits.replace("%r", &role).replace("%d", &format!("\"{name}\""));
        if !limits.is_empty() {
            db.run(&limits);
        }
        let table = format!("{role}.s");
        insert(&mut db, &table, 1, member(n, 1));
        wait_until_complete(&mut db, &table, 1, member(n, 1));
        assert_eq!(
            db.rows(&format!("SELECT * FROM {role}.seen")),
            [format!("{role}|{role}|")],
            "{limits}\n{}",
            lab.cluster.log()
        );
    }
    lab.assert_nothing_crashed();
}

/// V4.
#[test]
fn a_partition_without_a_pending_session_is_not_locked() {
    let lab = lab("owner-partitions");
    let mut db = lab.database();
    db.run(
        "CREATE TABLE parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id);
         DO $$ BEGIN FOR i IN 1..50 LOOP
             EXECUTE format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES IN (%s)', i, i); END LOOP; END $$;
         SELECT enrich.attach_session_table('parts', 'ip', 't')",
    );
    let mut holder = db.another();
    let locked: Vec<String> = (2..=50).map(|n| format!("parts_{n}")).collect();
    holder.run(&format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", locked.join(", ")));
    // An insert into the partition itself needs no lock on the others.
    insert(&mut db, "parts_1", 1, member(0, 1));
    wait_until(
        "nothing is left to do",
        || {
            let left = db.number(
                "SELECT (SELECT count(*) FROM enrich.enrichment_job)
                      + (SELECT count(*) FROM enrich.enrichment_request)",
            );
            (db.one("SELECT snapshot_asn, snapshot_country FROM parts_1"), left, state(&mut db))
        },
        |(now, left, _)| *now == snapshot(member(0, 1)) && *left == 0,
    );
    holder.run("ROLLBACK");
    lab.assert_nothing_crashed();
}

/// V4: the server may be out of locks or memory for a moment.
#[test]
fn a_table_that_failed_for_want_of_memory_is_tried_again() {
    let lab = lab("owner-memory");
    let mut db = lab.database();
    tenant(&mut db, "poor");
    attach(&mut db, "poor", "s");
    db.run("CREATE TABLE poor.broke (a int); INSERT INTO poor.broke VALUES (1); ALTER TABLE poor.broke OWNER TO poor");
    create_check(
        &mut db,
        "poor",
        "needs",
        "IF EXISTS (SELECT FROM poor.broke) THEN
             RAISE EXCEPTION 'out of shared memory' USING ERRCODE = '53200';
         END IF;",
    );
    constrain(&mut db, "poor", "s", "needs");
    insert(&mut db, "poor.s", 1, member(0, 1));
    wait_until(
        "the UPDATE has failed",
        || lab.cluster.log(),
        |log| {
            log.contains("could not fill the snapshot columns of a session table")
                && log.contains("out of shared memory")
        },
    );
    db.run("DELETE FROM poor.broke");
    wait_until_complete(&mut db, "poor.s", 1, member(0, 1));
    lab.assert_nothing_crashed();
}

/// Three owners whose code does not end take all slots, until one of the processes has ended.
#[test]
fn three_abandoned_processes_stop_other_owners_sessions_and_nothing_else() {
    let lab = lab("owner-three");
    let mut db = lab.database();
    let worker = worker_pid(&mut db);
    tenant(&mut db, "honest");
    attach(&mut db, "honest", "s");
    let code = uninterruptible(&mut db, 40.0);
    for (n, code) in [code.clone(), code.clone(), code].into_iter().enumerate() {
        let role = format!("stuck{n}");
        tenant(&mut db, &role);
        attach(&mut db, &role, "s");
        create_check(&mut db, &role, "stuck", &code);
        constrain(&mut db, &role, "s", "stuck");
        insert(&mut db, &format!("{role}.s"), 1, member(n, 1));
        let expected: Vec<String> = (0..=n).map(|n| format!("stuck{n}")).collect();
        wait_until(
            "the owner is suspended",
            || (suspended(&mut db), state(&mut db)),
            |(owners, _)| *owners == expected,
        );
        if n == 1 {
            insert(&mut db, "honest.s", 1, member(50, 1));
            wait_until_complete(&mut db, "honest.s", 1, member(50, 1));
        }
    }
    assert_eq!(abandoned(&mut db), 3, "{}", state(&mut db));
    insert(&mut db, "honest.s", 2, member(51, 1));
    wait_until(
        "the view says why the session is not completed",
        || {
            db.rows(
                "SELECT rel, blocked_reason FROM enrich.completion_status WHERE owner = 'honest' AND due > 0",
            )
        },
        |rows| {
            *rows
                == [
                    "honest.s|code of three table owners did not end after it was cancelled, so the extension starts no further code of table owners",
                ]
        },
    );
    assert_work_goes_on(&mut db, "honest.s", 60);
    assert_eq!(worker_pid(&mut db), worker);
    wait_up_to(
        Duration::from_secs(300),
        "one of the processes has ended",
        || (abandoned(&mut db), state(&mut db)),
        |(processes, _)| *processes < 3,
    );
    wait_until_complete(&mut db, "honest.s", 2, member(51, 1));
    lab.assert_nothing_crashed();
}

/// The leases of a process end with it.
#[test]
fn ended_owner_processes_lose_no_session() {
    let lab = Lab::start(Options::named("owner-ends").with_worker().conf("restart_after_crash = on"));
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..400);
    let mut ended = 0;
    for (n, chunk) in addresses.chunks(20).enumerate() {
        let rows: Vec<String> = chunk
            .iter()
            .enumerate()
            .map(|(i, address)| format!("('s{n}_{i}', now(), '{address}')"))
            .collect();
        db.run(&format!("INSERT INTO sessions (id, starttime, ip) VALUES {}", rows.join(", ")));
        db.run(&format!(
            "INSERT INTO session_summaries (session_id, first_event_at, source_ip) VALUES {}",
            rows.join(", ")
        ));
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE backend_type = 'cowrie_enrich owner process'";
        // In every second round a process is ended as soon as it starts.
        ended += if n % 2 == 0 {
            wait_until("a process is ended", || (db.number(end), state(&mut db)), |(ended, _)| *ended > 0).0
        } else {
            db.number(end)
        };
        if n == 10 {
            let name = db.name.clone();
            let pid = wait_until(
                "a process is running",
                || {
                    let pids = db.rows(
                        "SELECT pid FROM enrich.worker_status WHERE role = 'owner process' AND database = current_database()",
                    );
                    if pids.is_empty() {
                        insert_one(&mut db);
                    }
                    pids
                },
                |pids| !pids.is_empty(),
            );
            lab.cluster.kill_unless_ended(pid[0].parse().expect("a pid"));
            db = Database::reconnected(&lab.cluster, &name);
        }
    }
    wait_until(
        "every session is complete",
        || {
            let left = db.number("SELECT count(*) FROM enrich.session_completion")
                + db.number("SELECT count(*) FROM enrich.incomplete_session");
            (left, state(&mut db), suspended(&mut db))
        },
        |(left, ..)| *left == 0,
    );
    assert_eq!(suspended(&mut db), [] as [&str; 0]);
    assert!(ended > 0, "no process was ended");
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), 0);
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
}

/// One more session of an address that is known by then.
fn insert_one(db: &mut Session) {
    db.run(&format!(
        "INSERT INTO sessions (id, starttime, ip)
         SELECT 'x' || count(*), now(), '{}' FROM sessions",
        member(5_000, 1)
    ));
}

#[test]
fn a_server_without_a_free_process_slot_says_so_and_goes_on() {
    // One slot each for logical replication's launcher and the extension's, and two for workers of databases.
    let lab = Lab::start(Options::named("owner-slots").with_worker().conf("max_worker_processes = 4"));
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    db.run(&format!("INSERT INTO sessions (id, starttime, ip) VALUES ('a', now(), '{}')", member(0, 1)));
    wait_until(
        "the log and a metric say it",
        || {
            let failures = db.number(
                "SELECT COALESCE(sum(value), 0)::bigint FROM enrich.enrich_metrics
                 WHERE name = 'enrich_owner_process_launch_failures_total'",
            );
            (failures, lab.cluster.log(), state(&mut db))
        },
        |(failures, log, _)| {
            *failures > 0 && log.contains("could not start a process for the code of a table owner")
        },
    );
    queue(&mut db, &[member(1, 1)]);
    wait_until(
        "lookups go on",
        || db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NOT NULL"),
        |placed| *placed == 2,
    );
    lab.assert_nothing_crashed();
}

/// Rows of a table that is dropped or detached are deleted.
#[test]
fn rows_of_tables_that_are_dropped_or_detached_are_deleted() {
    let lab = lab("owner-gone");
    let mut db = lab.database();
    tenant(&mut db, "leaving");
    for table in ["dropped", "detached"] {
        attach(&mut db, "leaving", table);
        create_check(&mut db, "leaving", &format!("no_{table}"), "RAISE EXCEPTION 'no';");
        constrain(&mut db, "leaving", table, &format!("no_{table}"));
        insert(&mut db, &format!("leaving.{table}"), 1, member(0, 1));
    }
    wait_for_the_queue(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM enrich.session_completion"), 2);
    db.run("DROP TABLE leaving.dropped; SELECT enrich.detach_session_table('leaving.detached')");
    wait_until(
        "their rows are gone",
        || (db.number("SELECT count(*) FROM enrich.session_completion"), state(&mut db)),
        |(left, _)| *left == 0,
    );
    lab.assert_nothing_crashed();
}

#[test]
fn sessions_that_a_backfill_leaves_incomplete_are_completed_when_the_answer_comes() {
    let lab = lab("owner-backfill");
    let mut db = lab.database();
    db.run(&format!(
        "CREATE TABLE old (id int, ip inet, t timestamptz DEFAULT now());
         INSERT INTO old (id, ip) VALUES (1, '{}'), (2, '{}'), (3, '10.0.0.1');
         SELECT enrich.attach_session_table('old', 'ip', 't')",
        member(0, 1),
        member(1, 1)
    ));
    lab.whois.behave(Fault::Held);
    db.run("CALL enrich.backfill_sessions('old', progress => false)");
    assert_eq!(db.number("SELECT count(*) FROM old WHERE snapshot_asn IS NOT NULL"), 0);
    wait_until(
        "their addresses wait for answers, and the bogon does not",
        || {
            let inbox = "SELECT count(*) FROM enrich.incomplete_session";
            let rows = "SELECT host(ip_address) FROM enrich.session_completion ORDER BY ip_address";
            (db.number(inbox), db.rows(rows))
        },
        |(inbox, rows)| *inbox == 0 && *rows == [member(0, 1).to_string(), member(1, 1).to_string()],
    );
    lab.whois.behave(Behaviour::normal());
    for (id, block) in [(1, 0), (2, 1)] {
        wait_until_complete(&mut db, "old", id, member(block, 1));
    }
    lab.assert_nothing_crashed();
}

/// V4: a server with few locks.
#[test]
fn too_many_partitions_for_the_locks_of_the_server_name_the_setting() {
    let lab = Lab::start(
        Options::named("owner-locks").conf("max_locks_per_transaction = 10").conf("max_connections = 20"),
    );
    let mut db = lab.database();
    db.run("CREATE TABLE parts (id int, ip inet, t timestamptz DEFAULT now()) PARTITION BY LIST (id)");
    for hundred in 0..30 {
        db.run(&format!(
            "DO $$ BEGIN FOR i IN {hundred} * 100 + 1 .. {hundred} * 100 + 100 LOOP
                 EXECUTE format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES IN (%s)', i, i); END LOOP; END $$"
        ));
    }
    let refusal = db.refused("SELECT enrich.attach_session_table('parts', 'ip', 't')");
    assert_eq!(refusal.code, "53200", "{refusal:?}");
    assert!(
        refusal.hint.as_deref().is_some_and(|hint| hint.contains("max_locks_per_transaction")),
        "{refusal:?}"
    );
}
