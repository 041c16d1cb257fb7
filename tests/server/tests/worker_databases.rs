//! One worker per database with the extension. Together they stay within the limits, and none blocks another.

use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{Behaviour, Fault};
use server_tests::cymru::{
    self, Lab, assert_nothing_crashed, assert_placed, members, queue, wait_for_the_queue, worker_pid,
    worker_pid_now,
};
use server_tests::database::bare_database;
use server_tests::{Cluster, Database, Options, Session, wait_until};

/// "Under a second", plus a margin for a loaded machine.
const MOMENT: Duration = Duration::from_millis(1_500);

/// With a long naptime, so that only a request of the test makes the worker work.
fn lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 1h"))
}

fn admin(cluster: &Cluster) -> Session {
    cluster.session_with("postgres", "postgres", "public")
}

/// Returns a database whose worker waits for an answer.
fn in_the_middle_of_a_batch(lab: &Lab) -> Database<'_> {
    lab.whois.behave(Fault::Held);
    let before = held(lab);
    let mut db = lab.database();
    queue(&mut db, &members(0..20));
    wait_until("a batch is under way", || held(lab), |now| *now > before);
    // The worker reports this state only after the claim's transaction has ended.
    wait_until(
        "the worker waits",
        || {
            db.rows(
                "SELECT state FROM enrich.worker_status() WHERE database = current_database() AND role = 'worker'",
            )
        },
        |state| state == &["waiting for a provider"],
    );
    db
}

fn held(lab: &Lab) -> usize {
    lab.whois.record().connections.iter().filter(|c| c.end && c.is_open()).count()
}

/// Returns the databases that have a worker now.
fn at_work(session: &mut Session) -> Vec<String> {
    // worker_status() needs the extension. pg_stat_activity does not.
    session.rows(
        "SELECT datname FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker' ORDER BY datname",
    )
}

#[track_caller]
fn in_a_moment(what: &str, work: impl FnOnce()) {
    let started = Instant::now();
    work();
    let took = started.elapsed();
    assert!(took < MOMENT, "{what} took {took:?}");
}

#[test]
fn three_databases_have_three_workers_and_share_one_limit() {
    let lab = lab("databases-three");
    const CONNECTIONS: usize = 2;
    const PER_MINUTE: usize = 300;
    let mut dbs: Vec<Database<'_>> = (0..3).map(|_| lab.database()).collect();
    lab.reconfigure(&[
        "cymru_batch_size = 2",
        &format!("cymru_max_connections = {CONNECTIONS}"),
        &format!("cymru_rate = {PER_MINUTE}"),
    ]);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(100)));
    // The same addresses, because each database stores answers separately.
    for db in &mut dbs {
        queue(db, &members(0..10));
    }
    let names: Vec<String> = {
        let mut names: Vec<String> = dbs.iter().map(|db| db.name.clone()).collect();
        names.sort();
        names
    };
    wait_until(
        "each has its worker",
        || at_work(&mut admin(&lab.cluster)),
        |at_work| names.iter().all(|name| at_work.contains(name)),
    );
    assert_eq!(
        dbs[0].rows(&format!(
            "SELECT database FROM enrich.worker_status() WHERE role = 'worker' AND database IN ('{}') ORDER BY 1",
            names.join("','")
        )),
        names
    );
    for db in &mut dbs {
        wait_for_the_queue(db);
        assert_placed(db, &members(0..10));
    }
    let record = lab.whois.record();
    assert_eq!(record.connections.len(), 15, "{record:?}");
    assert!(record.most_at_once() <= CONNECTIONS, "{} at once", record.most_at_once());
    // In any period, there may be at most a burst of requests plus the number that the rate allows. A connection may
    // be noticed a moment late.
    let late = Duration::from_millis(100);
    let opened: Vec<Instant> = record.connections.iter().map(|c| c.opened).collect();
    for (first, from) in opened.iter().enumerate() {
        for (last, to) in opened.iter().enumerate().skip(first) {
            let stretch = *to - *from + late;
            let allowed = CONNECTIONS as f64 + stretch.as_secs_f64() * PER_MINUTE as f64 / 60.0;
            let began = last - first + 1;
            assert!(began as f64 <= allowed, "{began} exchanges began within {stretch:?}: {record:?}");
        }
    }
    assert_nothing_crashed(&lab.cluster);
}

/// A database with a long queue does not block requests of the others.
#[test]
fn a_short_queue_does_not_wait_for_a_long_one() {
    let lab = lab("databases-turns");
    let (mut long, mut short) = (lab.database(), lab.database());
    lab.reconfigure(&["cymru_batch_size = 5", "cymru_max_connections = 1"]);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(50)));
    // Both workers are awake before the test begins.
    for db in [&mut long, &mut short] {
        queue(db, &members(9_000..9_001));
        wait_for_the_queue(db);
    }
    queue(&mut long, &members(0..300));
    queue(&mut short, &members(1_000..1_005));
    wait_for_the_queue(&mut short);
    let left = long.number("SELECT count(*) FROM enrich.enrichment_job");
    assert!(left > 150, "of 300 lookups of the other database {left} were left");
    wait_for_the_queue(&mut long);
    assert_eq!(lab.whois.record().most_at_once(), 1);
}

#[test]
fn a_database_is_dropped_while_its_worker_is_in_the_middle_of_a_batch() {
    let lab = lab("databases-drop");
    let db = in_the_middle_of_a_batch(&lab);
    let name = db.name.clone();
    let mut admin = admin(&lab.cluster);
    drop(db);
    in_a_moment("DROP DATABASE", || admin.run(&format!("DROP DATABASE \"{name}\"")));
    wait_until("its worker has left the connection", || held(&lab), |held| *held == 0);
    wait_until("its seat is free", || at_work(&mut admin), |at_work| !at_work.contains(&name));
    // The permit must be free again, because with one connection another database would otherwise wait forever.
    lab.reconfigure(&["cymru_max_connections = 1"]);
    lab.whois.behave(Behaviour::normal());
    let mut other = lab.database();
    queue(&mut other, &members(0..5));
    wait_for_the_queue(&mut other);
    lab.assert_nothing_crashed();
}

#[test]
fn a_database_is_renamed_and_copied_while_its_worker_is_in_the_middle_of_a_batch() {
    let lab = lab("databases-rename");
    let db = in_the_middle_of_a_batch(&lab);
    let name = db.name.clone();
    let mut admin = admin(&lab.cluster);
    drop(db);
    in_a_moment("ALTER DATABASE RENAME", || {
        admin.run(&format!("ALTER DATABASE \"{name}\" RENAME TO renamed"));
    });
    // The worker starts again, and must disconnect again for the next command.
    let asked = || lab.whois.record().connections.iter().filter(|c| c.end).count();
    wait_until("the worker asks again", || (asked(), at_work(&mut admin)), |(asked, _)| *asked == 2);
    in_a_moment("CREATE DATABASE TEMPLATE", || admin.run("CREATE DATABASE copied TEMPLATE renamed"));
    lab.whois.behave(Behaviour::normal());
    for name in ["renamed", "copied"] {
        let mut db = lab.cluster.session(name);
        if name == "copied" {
            // Without a wake-up, the worker would find the work in the copy only after its naptime. This request
            // wakes the worker.
            queue(&mut db, &members(0..1));
        }
        wait_for_the_queue(&mut db);
        assert_placed(&mut db, &members(0..20));
        assert_eq!(
            db.rows("SELECT database FROM enrich.worker_status() WHERE role = 'worker' AND database = current_database()"),
            [name]
        );
    }
    lab.assert_nothing_crashed();
}

#[test]
fn the_extension_is_dropped_while_its_worker_is_in_the_middle_of_a_batch() {
    let lab = lab("databases-extension");
    let mut db = in_the_middle_of_a_batch(&lab);
    in_a_moment("DROP EXTENSION", || db.run("DROP EXTENSION cowrie_enrich"));
    let name = db.name.clone();
    wait_until("the worker has ended", || at_work(&mut db), |at_work| !at_work.contains(&name));
    wait_until("and left the connection", || held(&lab), |held| *held == 0);
    // The worker starts again when the extension is created again, with empty tables.
    lab.whois.behave(Behaviour::normal());
    db.run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    queue(&mut db, &members(0..5));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..5));
    lab.assert_nothing_crashed();
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_batch() {
    let lab = lab("databases-shutdown");
    let db = in_the_middle_of_a_batch(&lab);
    let name = db.name.clone();
    drop(db);
    in_a_moment("a fast shutdown", || lab.cluster.stop_fast());
    lab.whois.behave(Behaviour::normal());
    lab.cluster.start_again();
    let mut db = lab.cluster.session(&name);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..20));
    lab.assert_nothing_crashed();
}

#[test]
fn a_worker_begins_when_create_extension_commits_and_not_when_it_is_rolled_back() {
    let lab = lab("databases-create");
    let mut undone = bare_database(&lab.cluster);
    undone.run("CREATE SCHEMA enrich; BEGIN; CREATE EXTENSION cowrie_enrich SCHEMA enrich; ROLLBACK");
    let mut db = bare_database(&lab.cluster);
    db.run("CREATE SCHEMA enrich");
    // The launcher has checked both databases and found no extension.
    db.run("BEGIN; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    let mut admin = admin(&lab.cluster);
    assert!(!at_work(&mut admin).contains(&db.name));
    db.run("COMMIT");
    worker_pid(&mut db);
    wait_until(
        "the one has a worker and the other has none",
        || at_work(&mut admin),
        |at_work| at_work.contains(&db.name) && !at_work.contains(&undone.name),
    );
    queue(&mut db, &members(0..5));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..5));

    db.run("BEGIN; DROP EXTENSION cowrie_enrich; ROLLBACK");
    queue(&mut db, &members(5..10));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..10));
}

#[test]
fn settings_narrow_and_stop_the_workers_and_start_them_again() {
    let lab = lab("databases-settings");
    let (mut a, mut b) = (lab.database(), lab.database());
    for db in [&mut a, &mut b] {
        queue(db, &members(0..2));
        wait_for_the_queue(db);
    }
    let (first, second) = (a.name.clone(), b.name.clone());
    let mut admin = admin(&lab.cluster);
    let mut until = |what: &str, expected: &[&String]| {
        wait_until(
            what,
            || at_work(&mut admin),
            |at_work| at_work.iter().filter(|n| [&first, &second].contains(n)).eq(expected.iter().copied()),
        );
    };
    let both: Vec<&String> = if first < second { vec![&first, &second] } else { vec![&second, &first] };
    until("both work", &both);
    lab.cluster.reconfigure(&[format!("cowrie_enrich.databases = 'no_such, {second}'")]);
    until("one works", &[&second]);
    // The other's work waits.
    queue(&mut a, &members(2..4));
    queue(&mut b, &members(2..4));
    wait_for_the_queue(&mut b);
    assert_eq!(a.number("SELECT count(*) FROM enrich.enrichment_request"), 2);
    lab.cluster.reconfigure(&["cowrie_enrich.databases = ''".to_owned()]);
    wait_for_the_queue(&mut a);
    until("both work again", &both);

    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = off".to_owned()]);
    until("none works", &[]);
    queue(&mut a, &members(4..6));
    assert_eq!(
        a.one("SELECT state FROM enrich.worker_status() WHERE role = 'launcher'"),
        "running",
        "the launcher waits for better times"
    );
    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
    wait_for_the_queue(&mut a);
    until("both work once more", &both);
    assert_placed(&mut a, &members(0..6));
    lab.assert_nothing_crashed();
}

#[test]
fn a_worker_comes_back_when_the_drop_was_refused() {
    let lab = lab("databases-refused");
    let mut db = lab.database();
    queue(&mut db, &members(0..2));
    wait_for_the_queue(&mut db);
    let before = worker_pid(&mut db);
    let name = db.name.clone();
    // `db` is connected.
    let refusal = admin(&lab.cluster).refused(&format!("DROP DATABASE \"{name}\""));
    assert_eq!(refusal.code, "55006", "{refusal:?}");
    assert_eq!(refusal.detail.as_deref(), Some("There is 1 other session using the database."));
    let after = wait_until(
        "the worker is back",
        || worker_pid_now(&mut db),
        |pid| pid.is_some_and(|pid| pid != before),
    );
    assert_ne!(after, Some(before));
    queue(&mut db, &members(2..4));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..4));
}

/// A role that may not drop a database cannot make its worker leave.
#[test]
fn a_stranger_who_may_not_drop_a_database_does_not_stop_its_worker() {
    let lab = lab("databases-stranger");
    let mut db = in_the_middle_of_a_batch(&lab);
    let before = worker_pid(&mut db);
    let name = db.name.clone();
    let mut admin = admin(&lab.cluster);
    admin.run("CREATE ROLE stranger LOGIN CREATEDB");
    let mut stranger = lab.cluster.session_as("postgres", "stranger");
    for statement in [
        format!("DROP DATABASE \"{name}\""),
        format!("ALTER DATABASE \"{name}\" RENAME TO other"),
        format!("CREATE DATABASE other TEMPLATE \"{name}\""),
    ] {
        assert_eq!(stranger.refused(&statement).code, "42501", "{statement}");
    }
    assert_eq!(held(&lab), 1, "the batch goes on");
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    assert_eq!(worker_pid(&mut db), before);
    assert_eq!(lab.whois.record().connections.len(), 1);
}

#[test]
fn a_worker_that_is_terminated_comes_back_and_one_that_is_cancelled_goes_on() {
    let lab = lab("databases-terminate");
    let mut db = in_the_middle_of_a_batch(&lab);
    let pid = worker_pid(&mut db);
    for _ in 0..20 {
        db.run(&format!("SELECT pg_cancel_backend({pid})"));
    }
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    assert_eq!(worker_pid(&mut db), pid);

    lab.whois.behave(Fault::Held);
    let before = held(&lab);
    queue(&mut db, &members(20..40));
    wait_until("a batch is under way", || held(&lab), |now| *now > before);
    db.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until(
        "its permit is back, or its successor's",
        || (held(&lab), worker_pid_now(&mut db)),
        |(_, now)| now.is_some_and(|now| now != pid),
    );
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..40));
    assert_eq!(cymru::provider(&mut db, "in_flight"), 0);
    // The same for the launcher.
    let launcher = "SELECT pid FROM enrich.worker_status() WHERE role = 'launcher'";
    let old = db.one(launcher);
    db.run(&format!("SELECT pg_terminate_backend({old})"));
    wait_until("there is another launcher", || db.one(launcher), |now| *now != old && now != "NULL");
    queue(&mut db, &members(40..45));
    wait_for_the_queue(&mut db);
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn a_worker_that_waits_for_the_network_has_no_transaction_and_no_lock() {
    let lab = lab("databases-idle");
    let mut db = in_the_middle_of_a_batch(&lab);
    let pid = worker_pid(&mut db);
    let state = format!(
        "SELECT state, xact_start, backend_xid, backend_xmin,
                (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid)
         FROM pg_stat_activity a WHERE pid = {pid}"
    );
    // Beside the batch, the worker has short transactions for other work. A transaction of the batch would not end.
    for block in 100..120 {
        queue(&mut db, &members(block..block + 1));
        wait_until("the worker is idle", || db.one(&state), |state| state == "idle|NULL|NULL|NULL|0");
        assert!(held(&lab) > 0);
    }
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
}

#[test]
fn the_extension_is_updated_while_its_worker_is_in_the_middle_of_a_batch() {
    let lab = lab("databases-update");
    let mut db = in_the_middle_of_a_batch(&lab);
    db.run("SET client_min_messages = warning");
    in_a_moment("ALTER EXTENSION UPDATE", || db.run("ALTER EXTENSION cowrie_enrich UPDATE"));
    // Exclusive locks, as an upgrade script takes them.
    in_a_moment("ALTER TABLE", || {
        db.run(
            "BEGIN; ALTER TABLE enrich.enrichment_job ADD COLUMN more integer;
             ALTER TABLE enrich.ip_inventory ADD COLUMN more integer;
             LOCK TABLE enrich.asn_inventory, enrich.job_address, enrich.enrichment_request, enrich.block_answer;
             COMMIT",
        );
    });
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(0..20));
    lab.assert_nothing_crashed();
}

/// Returns how often the system has woken a process.
fn wake_ups(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("Linux says so").trim().parse().expect("a number")
}

#[test]
fn an_idle_worker_sleeps() {
    let lab = lab("databases-sleep");
    let mut db = lab.database();
    queue(&mut db, &members(0..5));
    wait_for_the_queue(&mut db);
    let worker = worker_pid(&mut db);
    let launcher = db.number("SELECT pid FROM enrich.worker_status() WHERE role = 'launcher'");
    wait_until(
        "the worker sleeps",
        || db.rows("SELECT state FROM enrich.worker_status() WHERE database = current_database()"),
        |state| state == &["sleeping"],
    );
    let before = (wake_ups(worker), wake_ups(launcher));
    // The measured period, not a wait. Commits of others that queue nothing do not wake the worker either.
    for _ in 0..20 {
        db.run("CREATE TABLE IF NOT EXISTS public.other (a int); INSERT INTO public.other VALUES (1)");
        std::thread::sleep(Duration::from_millis(100));
    }
    let after = (wake_ups(worker), wake_ups(launcher));
    assert!(
        after.0 - before.0 <= 3 && after.1 - before.1 <= 3,
        "worker, launcher: {before:?}, then {after:?}"
    );
}

/// Makes the launcher check all databases at once, without a connection to a certain one.
fn nudge_launcher(lab: &Lab, by_extension: bool) {
    if by_extension {
        bare_database(&lab.cluster).run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    } else {
        admin(&lab.cluster).run("SELECT pg_reload_conf()");
    }
}

#[test]
fn a_database_that_becomes_a_template_loses_its_worker_and_gets_it_back_with_its_work() {
    let lab = lab("databases-template");
    for by_extension in [false, true] {
        let mut db = lab.database();
        queue(&mut db, &members(0..2));
        wait_for_the_queue(&mut db);
        let name = db.name.clone();
        let mut admin = admin(&lab.cluster);
        admin.run(&format!("ALTER DATABASE \"{name}\" IS_TEMPLATE true"));
        nudge_launcher(&lab, by_extension);
        wait_until("its worker has left", || at_work(&mut admin), |at_work| !at_work.contains(&name));
        queue(&mut db, &members(2..4));
        assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_request"), 2);
        drop(db);
        let copy = format!("copy_{by_extension}");
        // The dropped connection may take a moment to end. The server waits for it.
        admin.run(&format!("CREATE DATABASE {copy} TEMPLATE \"{name}\""));
        assert!(!at_work(&mut admin).contains(&name), "nobody came back for the copy");
        admin.run(&format!("ALTER DATABASE \"{name}\" IS_TEMPLATE false"));
        nudge_launcher(&lab, by_extension);
        for name in [&name, &copy] {
            let mut db = lab.cluster.session(name);
            wait_for_the_queue(&mut db);
            assert_placed(&mut db, &members(0..4));
        }
    }
    lab.assert_nothing_crashed();
}

/// The launcher starts a worker when any extension is created. This worker finds that cowrie_enrich is missing, and
/// reports this, perhaps at the same time at which cowrie_enrich is created.
#[test]
fn an_extension_that_comes_right_after_another_one_gets_its_worker_every_time() {
    let lab = lab("databases-second");
    let mut db = bare_database(&lab.cluster);
    if db.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'") == 0 {
        eprintln!("skipped: contrib is not installed");
        return;
    }
    db.run("CREATE SCHEMA enrich; SET client_min_messages = warning");
    let name = db.name.clone();
    let mut others = db.another();
    for round in 0..20u64 {
        let before = db.one("SELECT pg_backend_pid()");
        others.run("CREATE EXTENSION hstore");
        // This sleep is not a wait for a condition: it varies the time between the creation of the two extensions.
        std::thread::sleep(Duration::from_millis(round * 5));
        db.run("CREATE EXTENSION cowrie_enrich SCHEMA enrich");
        let block = round as usize;
        queue(&mut db, &members(block..block + 1));
        wait_for_the_queue(&mut db);
        assert_placed(&mut db, &members(block..block + 1));
        worker_pid(&mut db);
        assert_eq!(db.one("SELECT pg_backend_pid()"), before);
        db.run("DROP EXTENSION cowrie_enrich; DROP EXTENSION hstore");
        // In every second round the worker is still there when the next two extensions are created.
        if round % 2 == 0 {
            wait_until("its worker has left", || at_work(&mut db), |at_work| !at_work.contains(&name));
        }
    }
    lab.assert_nothing_crashed();
}

/// All connections are always in use. Still, a new lookup waits only for about as many requests as there are
/// connections.
#[test]
fn a_single_lookup_is_among_the_next_requests_whatever_another_database_has_to_ask() {
    const CONNECTIONS: usize = 4;
    let lab = lab("databases-single");
    let (mut long, mut short) = (lab.database(), lab.database());
    lab.reconfigure(&["cymru_batch_size = 5", &format!("cymru_max_connections = {CONNECTIONS}")]);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(50)));
    for db in [&mut long, &mut short] {
        queue(db, &members(9_000..9_001));
        wait_for_the_queue(db);
    }
    lab.whois.forget();
    queue(&mut long, &members(0..3_000));
    for block in 5_000..5_008 {
        wait_until(
            "all connections are taken",
            || lab.whois.record().open_now(),
            |open| *open == CONNECTIONS,
        );
        let lookup = members(block..block + 1);
        let before = lab.whois.record().connections.len();
        queue(&mut short, &lookup);
        wait_for_the_queue(&mut short);
        let record = lab.whois.record();
        let at = record.connections.iter().position(|c| c.questions == lookup).expect("it was asked alone");
        // While the worker of this database creates the job, the other databases send requests. After that, this
        // database is the next to send.
        let waited = at - before;
        assert!(waited <= 3 * CONNECTIONS, "{waited} requests came before it");
    }
    let left = long.number("SELECT count(*) FROM enrich.enrichment_job");
    assert!(left > 500, "of the lookups of the other database {left} were left");
    assert!(lab.whois.record().most_at_once() <= CONNECTIONS);
    wait_for_the_queue(&mut long);
    lab.assert_nothing_crashed();
}

/// A named interleaving: all permits are returned at once, while both databases wait for one.
#[test]
fn of_four_permits_that_come_back_at_once_one_goes_to_the_database_that_has_none() {
    const CONNECTIONS: usize = 4;
    let lab = lab("databases-at-once");
    let (mut long, mut short) = (lab.database(), lab.database());
    lab.reconfigure(&["cymru_batch_size = 5", &format!("cymru_max_connections = {CONNECTIONS}")]);
    for db in [&mut long, &mut short] {
        queue(db, &members(9_000..9_001));
        wait_for_the_queue(db);
    }
    for round in 0..5 {
        lab.whois.behave(Fault::Held);
        queue(&mut long, &members(round * 200..round * 200 + 200));
        wait_until("the one has all connections", || held(&lab), |held| *held == CONNECTIONS);
        let lookup = members(5_000 + round..5_001 + round);
        queue(&mut short, &lookup);
        wait_until(
            "the other waits for one",
            || {
                let mut rows = short
                    .rows("SELECT state FROM enrich.worker_status() WHERE database = current_database()");
                rows.extend(short.rows("SELECT lookup_key FROM enrich.enrichment_job"));
                rows
            },
            |rows| rows.len() == 2 && rows[0] == "sleeping",
        );
        let before = lab.whois.record().connections.len();
        lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(20)));
        wait_for_the_queue(&mut short);
        let record = lab.whois.record();
        let at = record.connections.iter().position(|c| c.questions == lookup).expect("it was asked alone");
        assert!(at - before < CONNECTIONS, "round {round}: {} requests came before it", at - before);
        wait_for_the_queue(&mut long);
    }
    lab.assert_nothing_crashed();
}

#[test]
fn hundreds_of_cancellations_at_whatever_moment_do_not_end_a_worker() {
    let lab = lab("databases-cancel");
    lab.reconfigure(&["cymru_batch_size = 20"]);
    let mut db = lab.database();
    queue(&mut db, &members(0..1));
    wait_for_the_queue(&mut db);
    let pid = worker_pid(&mut db);
    let burst = format!("SELECT count(pg_cancel_backend({pid})) FROM generate_series(1, 200)");
    // Cancels the worker many times: while it sleeps, creates jobs and stores answers.
    db.run(&burst);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(5)));
    let mut other = db.another();
    for round in 0..5 {
        queue(&mut db, &members(round * 100 + 1..round * 100 + 101));
        for _ in 0..5 {
            other.run(&burst);
        }
        assert_eq!(worker_pid_now(&mut db), Some(pid));
    }
    wait_for_the_queue(&mut db);
    assert_eq!(worker_pid_now(&mut db), Some(pid));
    assert_placed(&mut db, &members(0..501));
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    assert_eq!(cymru::provider(&mut db, "in_flight"), 0);
    lab.assert_nothing_crashed();
}

/// Starts a server with slots for `workers` workers, the extension's launcher and that of logical replication.
fn with_room_for(name: &str, workers: usize) -> Cluster {
    let slots = format!("max_worker_processes = {}", workers + 2);
    Cluster::start(&Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 1h").conf(&slots))
}

fn create_extension(cluster: &Cluster, database: &str) -> Session {
    let mut session = cluster.session(database);
    session.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    session
}

/// Returns the state of each database's worker, from worker_status.
fn workers(session: &mut Session) -> Vec<String> {
    session.rows(
        "SELECT database, pid IS NOT NULL, CASE WHEN pid IS NULL THEN state END
         FROM enrich.worker_status() WHERE role = 'worker' ORDER BY database",
    )
}

fn is_up(session: &mut Session, database: &str) -> Vec<String> {
    session.rows(&format!(
        "SELECT value FROM enrich.enrich_metrics
         WHERE name = 'enrich_worker_up' AND labels ->> 'database' = '{database}'"
    ))
}

const WAITS: &str = "waiting for a slot of max_worker_processes";

#[test]
fn a_database_without_a_slot_is_shown_and_gets_one_when_another_database_is_dropped() {
    let cluster = with_room_for("databases-slotless", 1);
    let mut admin = admin(&cluster);
    admin.run("CREATE DATABASE first");
    create_extension(&cluster, "first");
    wait_until("the first has a worker", || at_work(&mut admin), |at_work| at_work == &["first"]);
    admin.run("CREATE DATABASE second");
    let mut second = create_extension(&cluster, "second");
    wait_until(
        "the second is shown to wait",
        || workers(&mut second),
        |workers| workers == &["first|t|NULL".to_owned(), format!("second|f|{WAITS}")],
    );
    assert_eq!(
        (is_up(&mut second, "first"), is_up(&mut second, "second")),
        (vec!["1".into()], vec!["0".into()])
    );
    admin.run("DROP DATABASE first");
    wait_until("it has a worker", || workers(&mut second), |workers| workers == &["second|t|NULL"]);
    wait_until("it is up", || is_up(&mut second, "second"), |up| up == &["1"]);
    assert_nothing_crashed(&cluster);
}

#[test]
fn a_database_that_had_a_worker_keeps_its_place_from_copies_and_across_restarts() {
    let cluster = with_room_for("databases-places", 2);
    let mut owner = admin(&cluster);
    // Creates the copy first, so that the order of OIDs or names does not favour the other databases.
    owner.run("CREATE DATABASE copy");
    for name in ["shop", "zoo"] {
        owner.run(&format!("CREATE DATABASE {name}"));
        create_extension(&cluster, name);
        wait_until("it has a worker", || at_work(&mut owner), |at_work| at_work.iter().any(|at| at == name));
    }
    let mut copy = create_extension(&cluster, "copy");
    let waits = ["copy|f|".to_owned() + WAITS, "shop|t|NULL".to_owned(), "zoo|t|NULL".to_owned()];
    wait_until("the copy waits", || workers(&mut copy), |workers| workers == &waits);
    let pid_of = |session: &mut Session, database: &str| {
        session.rows(&format!(
            "SELECT pid FROM enrich.worker_status() WHERE role = 'worker' AND database = '{database}' AND pid IS NOT NULL"
        ))
    };
    for database in ["shop", "zoo", "shop"] {
        let before = pid_of(&mut copy, database);
        assert_eq!(before.len(), 1);
        copy.run(&format!("SELECT pg_terminate_backend({})", before[0]));
        // Work in the copy makes the launcher try at once.
        wait_until(
            "the worker is back, and the copy has none",
            || {
                copy.run("SELECT enrich.request_enrichment('8.8.8.8', 'cymru')");
                let now = at_work(&mut copy);
                assert!(!now.contains(&"copy".to_owned()), "the copy took a place: {now:?}");
                pid_of(&mut copy, database)
            },
            |now| now.len() == 1 && *now != before,
        );
    }
    drop(copy);
    for restart in [Cluster::stop_fast, Cluster::kill_postmaster] {
        restart(&cluster);
        cluster.start_again();
        let mut copy = cluster.session("copy");
        wait_until("they have their places again", || workers(&mut copy), |workers| workers == &waits);
    }
    // An unreadable list is ignored.
    cluster.stop_fast();
    let list = cluster.data_dir().join("cowrie_enrich/workers.json");
    assert!(list.exists());
    std::fs::write(&list, "[[1, 2], [3").expect("it can be written");
    cluster.start_again();
    let mut copy = cluster.session("copy");
    wait_until("two of them work", || at_work(&mut copy), |at_work| at_work.len() == 2);
    assert!(cluster.whole_log().contains("could not read the list of databases with workers"));
    assert_nothing_crashed(&cluster);
}

/// The slot was free for a moment, because the setting excluded the older database.
#[test]
fn a_copy_that_came_into_the_place_of_an_older_database_gives_way() {
    let cluster = with_room_for("databases-gives-way", 1);
    let mut owner = admin(&cluster);
    for name in ["shop", "copy"] {
        owner.run(&format!("CREATE DATABASE {name}"));
    }
    create_extension(&cluster, "shop");
    wait_until("it has a worker", || at_work(&mut owner), |at_work| at_work == &["shop"]);
    // Waits until the launcher has stored that the database had a worker. Otherwise the database would have no right
    // to the slot.
    let list = cluster.data_dir().join("cowrie_enrich/workers.json");
    let shop = owner.one("SELECT oid FROM pg_database WHERE datname = 'shop'");
    wait_until(
        "the launcher has noted it",
        || std::fs::read_to_string(&list).unwrap_or_default(),
        |list| list.split(|c: char| !c.is_ascii_digit()).any(|word| word == shop),
    );
    cluster.reconfigure(&["cowrie_enrich.databases = 'copy'".to_owned()]);
    let mut copy = create_extension(&cluster, "copy");
    wait_until("the copy has one", || at_work(&mut owner), |at_work| at_work == &["copy"]);
    cluster.reconfigure(&["cowrie_enrich.databases = ''".to_owned()]);
    wait_until(
        "it gives way",
        || workers(&mut copy),
        |workers| workers == &[format!("copy|f|{WAITS}"), "shop|t|NULL".to_owned()],
    );
    assert_nothing_crashed(&cluster);
}

/// Stores sessions of one address whose network is unknown, each in a separate transaction.
fn sessions_of_an_unknown_network(session: &mut Session, count: usize) {
    for n in 0..count {
        session.run(&format!("INSERT INTO public.sessions VALUES ('{n}', '5.9.200.1')"));
    }
}

fn requests(session: &mut Session) -> Vec<String> {
    session.rows("SELECT provider, count(*) FROM enrich.enrichment_request GROUP BY 1 ORDER BY 1")
}

#[test]
fn requests_do_not_pile_up_where_no_worker_takes_them() {
    let lab = lab("databases-elsewhere");
    // An answer for another database may arrive at any time.
    let elsewhere = in_the_middle_of_a_batch(&lab);
    lab.cluster.reconfigure(&[format!("cowrie_enrich.databases = '{}'", elsewhere.name)]);
    let mut db = lab.database();
    db.run("CREATE TABLE sessions (id text, ip text); SELECT enrich.attach_session_table('sessions', 'ip')");
    sessions_of_an_unknown_network(&mut db, 200);
    assert_eq!(requests(&mut db), ["cymru|1"]);
    // Equal requests from other connections or by function calls are not appended either.
    for _ in 0..20 {
        let mut other = db.another();
        sessions_of_an_unknown_network(&mut other, 2);
        other.run("SELECT enrich.enrich_ip('5.9.200.1')");
    }
    assert_eq!(requests(&mut db), ["cymru|1"]);
    // Rows that were rolled back or deleted do not wait.
    db.run("TRUNCATE enrich.enrichment_request");
    db.run("BEGIN; INSERT INTO public.sessions VALUES ('undone', '5.9.200.1'); SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK");
    sessions_of_an_unknown_network(&mut db, 2);
    assert_eq!(requests(&mut db), ["cymru|1"]);
    db.run("DELETE FROM enrich.enrichment_request");
    sessions_of_an_unknown_network(&mut db, 2);
    assert_eq!(requests(&mut db), ["cymru|1"]);
    // A prepared transaction may commit after a worker has looked.
    db.run("BEGIN; INSERT INTO public.sessions VALUES ('later', '5.9.200.1'); PREPARE TRANSACTION 'later'");
    db.run("COMMIT PREPARED 'later'");
    assert_eq!(requests(&mut db), ["cymru|2"]);
    lab.assert_nothing_crashed();
}

/// While no worker runs, `incomplete_session` has a maximum size. The worker finds the sessions that are missing
/// there by searching the session tables.
#[test]
fn sessions_beyond_the_bound_of_the_inbox_are_found_when_the_worker_comes() {
    let lab = lab("databases-full");
    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = off".to_owned()]);
    let mut db = lab.database();
    db.run("CREATE TABLE sessions (id text, ip text); SELECT enrich.attach_session_table('sessions', 'ip')");
    // 32 MB of rows without work for the worker.
    db.run(
        "INSERT INTO enrich.incomplete_session (rel, ip_address)
         SELECT 'public.sessions', '203.0.113.1' FROM generate_series(1, 900000)",
    );
    let requests = "SELECT count(*) FROM enrich.recount_request";
    let addresses = members(0..2);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&format!("INSERT INTO public.sessions VALUES ('{n}', '{address}')"));
        assert_eq!(db.number(requests), 1);
    }
    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
    wait_until(
        "the sessions are complete",
        || db.number("SELECT count(*) FROM public.sessions WHERE snapshot_asn IS NULL"),
        |incomplete| *incomplete == 0,
    );
    wait_until("no recount is asked for", || db.number(requests), |requests| *requests == 0);
    lab.assert_nothing_crashed();
}

/// This includes sizes that the database's worker has not counted yet.
#[test]
fn a_lock_hides_no_other_size_than_the_one_behind_it() {
    let lab = lab("databases-sizes");
    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = off".to_owned()]);
    let mut db = lab.database();
    let mut elsewhere = lab.database();
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.session_delta");
    lab.cluster.reconfigure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
    let name = db.name.clone();
    let shown = |session: &mut Session| {
        session.rows(&format!(
            "SELECT DISTINCT name FROM enrich.enrich_metrics
             WHERE labels ->> 'database' = '{name}' AND name IN ('asn_inventory_size',
                 'enrich_attached_tables_not_intact', 'enrich_completions_pending',
                 'enrich_pending_counts_oldest_age_seconds', 'enrich_queue_depth', 'enrich_recount_oldest_age_seconds')
             ORDER BY 1"
        ))
    };
    let behind = "enrich_pending_counts_oldest_age_seconds";
    let others = [
        "asn_inventory_size",
        "enrich_attached_tables_not_intact",
        "enrich_completions_pending",
        "enrich_queue_depth",
        "enrich_recount_oldest_age_seconds",
    ];
    wait_until("the others are shown", || shown(&mut elsewhere), |names| *names == others);
    assert_eq!(shown(&mut db), others, "in the database itself");
    locker.run("COMMIT");
    wait_until(
        "all are shown",
        || shown(&mut elsewhere),
        |names| names.len() == others.len() + 1 && names.iter().any(|name| name == behind),
    );
    lab.assert_nothing_crashed();
}

#[test]
fn sessions_without_a_worker_are_completed_when_it_comes() {
    let lab = lab("databases-comes");
    lab.cluster.reconfigure(&["cowrie_enrich.databases = 'elsewhere'".to_owned()]);
    let mut db = lab.database();
    db.run("CREATE TABLE sessions (id text, ip text); SELECT enrich.attach_session_table('sessions', 'ip')");
    let address = members(0..1)[0];
    let insert = |db: &mut Session, n: usize| {
        db.run(&format!("INSERT INTO public.sessions VALUES ('{n}', '{address}')"));
    };
    (0..20).for_each(|n| insert(&mut db, n));
    assert_eq!(requests(&mut db), ["cymru|1"]);
    for round in 1..4 {
        lab.cluster.reconfigure(&["cowrie_enrich.databases = ''".to_owned()]);
        wait_until(
            "all are completed",
            || db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"),
            |left| *left == 0,
        );
        lab.cluster.reconfigure(&["cowrie_enrich.databases = 'elsewhere'".to_owned()]);
        let name = db.name.clone();
        wait_until("the worker has left", || at_work(&mut db), |at_work| !at_work.contains(&name));
        // The network is unknown again, and the earlier request became a job. A new one is needed.
        db.run(&format!(
            "DELETE FROM enrich.block_answer; UPDATE enrich.ip_inventory SET current_asn = NULL, enrichment = '{{}}' WHERE ip_address = '{address}'"
        ));
        (round * 100..round * 100 + 20).for_each(|n| insert(&mut db, n));
        assert_eq!(requests(&mut db), ["cymru|1"]);
    }
    lab.assert_nothing_crashed();
}
