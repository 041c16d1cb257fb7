//! Errors and log lines name the mistake and its place, without noise and without details of the library.

use std::sync::{Arc, Mutex};

use postgres::NoTls;
use server_tests::cymru::assert_nothing_crashed;
use server_tests::database::{cluster_with_world, database};
use server_tests::{Cluster, Database, Options, fresh_database, wait_until};

/// Parts of a Rust backtrace.
const FRAMES: [&str; 4] = ["   0: ", "std::backtrace", "pgrx_pg_sys::", "/registry/src/"];

fn assert_no_backtrace(what: &str, text: &str) {
    for frame in FRAMES {
        assert!(!text.contains(frame), "{what} has a backtrace: {text}");
    }
}

/// Makes an ERROR of the server pass through Rust on its way to the client.
fn refuse_addresses(db: &mut Database<'_>) {
    db.run(
        "CREATE FUNCTION public.boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
         CREATE TRIGGER boom BEFORE INSERT ON enrich.ip_inventory FOR EACH ROW EXECUTE FUNCTION public.boom()",
    );
}

fn with_backtraces(name: &str) -> Options {
    Options::named(name).environment("RUST_BACKTRACE", "full").environment("RUST_LIB_BACKTRACE", "1")
}

#[test]
fn backtraces_of_rust_reach_neither_clients_nor_the_log() {
    let cluster = cluster_with_world(&with_backtraces("diagnostics-backtrace"));
    let mut db = fresh_database(&cluster);
    refuse_addresses(&mut db);
    let refusal = db.refused("SELECT enrich.enrich_ip('8.8.8.8')");
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("P0001", "boom"));
    assert_eq!(refusal.detail, None);
    // Without preloading, the library also sees the postmaster's environment.
    db.run("CREATE TABLE sessions (id text, ip text); SELECT enrich.attach_session_table('sessions', 'ip')");
    db.run("INSERT INTO sessions VALUES ('s', '8.8.8.8')");
    assert_eq!(db.number("SELECT errors FROM enrich.enrich_stats()"), 1, "creating the address failed");
    wait_until("the failure is logged", || cluster.whole_log(), |log| log.matches("boom").count() >= 2);
    assert_no_backtrace("the log", &cluster.whole_log());
    assert_nothing_crashed(&cluster);
}

#[test]
fn a_developer_can_have_backtraces() {
    let options = with_backtraces("diagnostics-developer").environment("COWRIE_ENRICH_BACKTRACE", "1");
    let cluster = cluster_with_world(&options);
    let mut db = fresh_database(&cluster);
    refuse_addresses(&mut db);
    let refusal = db.refused("SELECT enrich.enrich_ip('8.8.8.8')");
    let detail = refusal.detail.expect("the detail has the backtrace");
    assert!(detail.contains("   0: "), "{detail}");
}

/// Opens a connection that keeps the server's notices.
fn listening(cluster: &Cluster, database: &str) -> (postgres::Client, Arc<Mutex<Vec<String>>>) {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let hears = Arc::clone(&heard);
    let client = postgres::Config::new()
        .host_path(cluster.socket_dir())
        .port(5432)
        .user("postgres")
        .dbname(database)
        .notice_callback(move |notice| {
            let line = format!("{}: {}", notice.severity(), notice.message());
            hears.lock().expect("no listener panics").push(line);
        })
        .connect(NoTls)
        .expect("the server accepts connections");
    (client, heard)
}

#[test]
fn a_second_call_of_a_procedure_is_refused_without_a_warning_before() {
    let mut db = database();
    db.run("CREATE TABLE sessions (id int, ip text); SELECT enrich.attach_session_table('sessions', 'ip')");
    for call in [
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.build_asn_inventory(progress => false)",
        "CALL enrich.refresh_stale('maxmind')",
        "CALL enrich.backfill_sessions('sessions', progress => false)",
    ] {
        let mut first = db.another();
        let pid = first.backend_pid();
        std::thread::scope(|scope| {
            // `blocker` is created inside the scope. If the test fails, it is dropped, and the first call
            // ends too.
            let mut blocker = db.another();
            // The first call holds its advisory lock before it writes this table.
            blocker.run("BEGIN; LOCK TABLE enrich.procedure_call IN ACCESS EXCLUSIVE MODE");
            let running = scope.spawn(move || first.try_run(call));
            wait_until(
                "the first call holds its lock and waits",
                || {
                    db.rows(&format!(
                        "SELECT locktype || granted FROM pg_locks WHERE pid = {pid} AND (NOT granted OR objsubid > 192)
                         ORDER BY 1"
                    ))
                },
                |locks| locks.len() >= 2,
            );
            let (mut second, heard) = listening(db.cluster, &db.name);
            let refusal = second.batch_execute(call).expect_err("one call runs already");
            let refusal = refusal.as_db_error().expect("the server refused it");
            assert!(refusal.message().ends_with(" is already running"), "{call}: {refusal:?}");
            assert_eq!(*heard.lock().expect("no listener panics"), [] as [String; 0], "{call}");
            blocker.run("ROLLBACK");
            running.join().expect("the call ends").expect("the first call goes on");
        });
    }
}

#[test]
fn a_table_that_is_not_attached_is_named_by_every_function_that_needs_one() {
    let mut db = database();
    db.run("CREATE TABLE plain (id int, ip inet)");
    for call in [
        "SELECT enrich.reference_addresses('plain', true)",
        "SELECT enrich.reference_addresses('plain', false)",
        "CALL enrich.add_session_foreign_key('plain')",
        "CALL enrich.backfill_sessions('plain')",
        "SELECT enrich.set_session_priority('plain', '1')",
        "SELECT enrich.session_index_commands('plain')",
    ] {
        let refusal = db.refused(call);
        assert_eq!(refusal.code, "55000", "{call}: {refusal:?}");
        assert!(
            refusal.message.contains("plain") && refusal.message.contains("attached"),
            "{call}: {refusal:?}"
        );
        assert!(refusal.hint.is_some(), "{call}: {refusal:?}");
    }
}
