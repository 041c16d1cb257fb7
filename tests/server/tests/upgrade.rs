//! New files, a restart of the server and ALTER EXTENSION UPDATE follow each other in any order, while sessions come
//! in. No session is lost, and the result equals a fresh install.
//!
//! The earlier version is [`OLD`], which the tests make. The servers run in a separate PostgreSQL installation. Its files
//! are replaced by rename, as `make install` and packages do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cowrie_enrich_upstreams::{Routes, Whois};
use server_tests::cymru::{
    assert_nothing_crashed, members, pointed_at, queue, wait_for_the_queue, worker_pid,
};
use server_tests::database::{bare_database, cluster_with_unread_world};
use server_tests::hosts::COWRIE;
use server_tests::installation::{installation, named_pg_config, use_installation, workspace};
use server_tests::invariants::{Snapshots, assert_invariants, assert_shared_memory_is_sane};
use server_tests::recount::assert_counts_are_exact;
use server_tests::releases::{
    LACKED, OLD, catalog, current, differences, install_files, install_script, offer, offer_old_version,
    old_script, released, update_script,
};
use server_tests::traffic::{TABLES, Traffic, assert_sessions_are, prepare_without_key};
use server_tests::{Cluster, Database, Options, Session, wait_until};

/// Makes a copy of the installation under test with the old version in it. This process then uses the copy.
fn workshop() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let original = named_pg_config();
        let original = original.parent().and_then(|bin| bin.parent()).expect("a private installation");
        let postgres = workspace().join("target/postgres");
        let postgres = postgres.canonicalize().unwrap_or(postgres);
        let copy = postgres.join("upgraded");
        let _ = fs::remove_dir_all(&copy);
        let copied = Command::new("cp").arg("-a").arg(original).arg(&copy).status();
        assert!(copied.is_ok_and(|status| status.success()), "could not copy {}", original.display());
        use_installation(&copy.join("bin/pg_config"));
        assert!(installation().pkglibdir.starts_with(&copy), "{}", installation().pkglibdir.display());
        offer_old_version();
    });
}

struct Server {
    cluster: Cluster,
    whois: Whois,
}

/// Starts a server whose worker works. Its databases have the old version.
fn server(name: &str, change: impl FnOnce(Options) -> Options) -> Server {
    workshop();
    let whois = Whois::start(Routes::synthetic());
    let cluster = cluster_with_unread_world(&pointed_at(&whois, change(Options::named(name).with_worker())));
    Server { cluster, whois }
}

fn database_of_version<'a>(cluster: &'a Cluster, version: &str) -> Database<'a> {
    let mut db = bare_database(cluster);
    // As Cowrie's manual has it: the honeypot gets privileges on all future objects.
    db.run(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC",
    );
    db.run(&format!(
        "CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich VERSION '{version}'"
    ));
    db.run("SET search_path = public, enrich");
    db
}

fn says_of_the_worker(session: &mut Session) -> Vec<String> {
    session.rows(
        "SELECT state FROM enrich.worker_status() WHERE database = current_database() AND pid IS NOT NULL",
    )
}

#[track_caller]
fn wait_until_it_waits(session: &mut Session) {
    wait_until(
        "the worker waits for the update",
        || says_of_the_worker(session),
        |says| *says == ["waiting for ALTER EXTENSION UPDATE, or for a newer library"],
    );
}

/// All tests of this process share one library file. A test that replaces the file holds this lock, so that no other test replaces
/// it meanwhile.
static LIBRARY: Mutex<()> = Mutex::new(());

fn own_library() -> MutexGuard<'static, ()> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the library as `make install` does: another file with the same name, without writing to the old one.
fn replace_library() -> PathBuf {
    let library = installation().pkglibdir.join("cowrie_enrich.so");
    let draft = installation().pkglibdir.join("cowrie_enrich.so.new");
    // Strips the library, so that its bytes are at other positions.
    let stripped = Command::new("strip").arg("--strip-debug").arg("-o").arg(&draft).arg(&library).status();
    assert!(stripped.is_ok_and(|status| status.success()), "strip is there, as Rust needs a linker");
    fs::rename(&draft, &library).expect("own directory");
    library
}

/// Returns true if the library file that a process has loaded was deleted.
fn has_a_replaced_library(pid: i64) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    let line =
        maps.lines().find(|line| line.contains("cowrie_enrich.so")).expect("it has loaded the library");
    line.ends_with("(deleted)")
}

#[test]
fn sessions_keep_coming_while_files_are_replaced_and_the_extension_is_updated() {
    let _own = own_library();
    let server = server("upgrade", |options| options.durable());
    let (cluster, whois) = (&server.cluster, &server.whois);
    let mut db = database_of_version(cluster, OLD);
    let name = db.name.clone();
    prepare_without_key(&mut db);
    db.run("SELECT reload_mmdb()");
    let traffic = Traffic::new(cluster, &name, 3, 7);
    let mut seen = Snapshots::default();
    traffic.during_without_calls(|| {
        traffic.wait_for_transactions(50);
        wait_until_it_waits(&mut db);
        let refusal = db.refused("SELECT enrich_ip('8.8.8.8')");
        assert_eq!(refusal.code, "55000", "{refusal:?}");
        assert_eq!(refusal.hint.as_deref(), Some("Run ALTER EXTENSION cowrie_enrich UPDATE."));
        assert_eq!(db.refused("CALL build_asn_inventory()").code, "55000");
        assert_eq!(db.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')"), "US|15169", "lookups go on");
        assert_eq!(whois.record().connections.len(), 0, "nobody was asked meanwhile");
        assert_invariants(&mut db, &mut seen);

        let library = replace_library();
        traffic.wait_for_transactions(50);
        // A new backend has the library of the postmaster.
        let mut newcomer = cluster.session(&name);
        assert_eq!(newcomer.one("SELECT library_version()"), current());
        assert!(has_a_replaced_library(newcomer.backend_pid()), "it loaded {}", library.display());

        let mut held = cluster.session(&name);
        held.run(&format!("BEGIN; {}", COWRIE.insert(&[("across", Some("23.1.0.77"))])));
        db.run("ALTER EXTENSION cowrie_enrich UPDATE");
        held.run("COMMIT");
        db.run("DELETE FROM sessions WHERE id = 'across'");
        assert_eq!(db.one("SELECT current_asn FROM enrich_ip('8.8.8.8')"), "15169");
        traffic.wait_for_transactions(50);
        wait_until("the worker goes on by itself", || whois.record().connections.len(), |asked| *asked > 0);
        assert_invariants(&mut db, &mut seen);

        drop(newcomer);
        cluster.stop_fast();
        cluster.start_again();
        traffic.wait_for_transactions(50);
        db = Database::reconnected(cluster, &name);
        assert!(!has_a_replaced_library(db.backend_pid()), "the server has the new file");
    });
    let held = traffic.hold();
    worker_pid(&mut db);
    wait_for_the_queue(&mut db);
    assert_sessions_are(&mut db, &held.acknowledged());
    assert_invariants(&mut db, &mut seen);
    assert_counts_are_exact(&mut db, &TABLES);
    assert_shared_memory_is_sane(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NULL AND NOT is_bogon"), 0);
    let fresh = catalog(&mut database_of_version(cluster, current()));
    assert!(fresh.len() > 400, "{} things", fresh.len());
    assert_eq!(differences(&catalog(&mut db), &fresh), [""; 0]);
    assert_nothing_crashed(cluster);
}

#[test]
fn without_preload_backends_with_the_old_and_the_new_file_work_side_by_side() {
    let _own = own_library();
    workshop();
    let cluster = cluster_with_unread_world(&Options::named("upgrade-loaded").without_preload());
    let mut db = database_of_version(&cluster, current());
    COWRIE.create_attached(&mut db);
    db.run("SELECT reload_mmdb()");
    db.run(&COWRIE.insert(&[("old", Some("8.8.8.8"))]));
    replace_library();
    let mut new = db.another();
    for n in 0..20 {
        let session: &mut Session = if n % 2 == 0 { &mut db } else { &mut new };
        session
            .run(&COWRIE.insert(&[(&format!("s{n}"), Some("8.8.8.8")), (&format!("t{n}"), Some("1.1.1.1"))]));
        session.run("SELECT enrich_ip('139.59.0.1', true)");
        session.run(&format!("DELETE FROM sessions WHERE id = 't{n}'"));
    }
    // One session puts a newer mmdb file into service, and the other one finds it.
    db.run("SELECT reload_mmdb()");
    new.run("SELECT reload_mmdb()");
    assert_eq!(COWRIE.snapshot(&mut new, "s1"), "15169|US|NULL");
    assert!(has_a_replaced_library(db.backend_pid()));
    assert!(!has_a_replaced_library(new.backend_pid()));
    assert_counts_are_exact(&mut new, &[("sessions", "ip")]);
    assert_nothing_crashed(&cluster);
}

#[test]
fn an_update_whose_library_the_server_does_not_run_yet_is_refused_and_changes_nothing() {
    let server = server("upgrade-early", |options| options);
    offer(
        &format!("{}--9.9.9", current()),
        "SELECT @extschema@.require_library('9.9.9');\nDROP VIEW queue_status;\n",
    );
    let mut db = database_of_version(&server.cluster, current());
    COWRIE.create_attached(&mut db);
    let before = catalog(&mut db);
    let refusal = db.refused("ALTER EXTENSION cowrie_enrich UPDATE TO '9.9.9'");
    assert_eq!(refusal.code, "55000", "{refusal:?}");
    assert!(refusal.hint.expect("a hint").contains("restart PostgreSQL"));
    assert_eq!(catalog(&mut db), before);
    db.run(&COWRIE.insert(&[("a", Some("60.0.0.7"))]));
    wait_for_the_queue(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// An older library is installed again, for example by a downgrade of the package, or on a standby that was not
/// upgraded.
#[test]
fn objects_newer_than_the_library_are_left_alone_by_the_worker_and_sessions_are_counted() {
    let server = server("upgrade-older", |options| options);
    let mut db = database_of_version(&server.cluster, current());
    COWRIE.create_attached(&mut db);
    db.run("SELECT reload_mmdb()");
    let version = |db: &mut Database<'_>, version: &str| {
        db.run(&format!("UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'cowrie_enrich'"));
    };
    worker_pid(&mut db);
    version(&mut db, "9.9.9");
    wait_until_it_waits(&mut db);
    let mut other = db.another();
    let refusal = other.refused("SELECT enrich_ip('8.8.8.8')");
    assert_eq!(refusal.code, "55000", "{refusal:?}");
    assert!(refusal.hint.expect("a hint").contains("restart PostgreSQL"));
    let addresses = members(0..20);
    for (n, address) in addresses.iter().enumerate() {
        other.run(&COWRIE.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    other.run(&COWRIE.insert(&[("known", Some("8.8.8.8"))]));
    assert_eq!(COWRIE.snapshot(&mut other, "known"), "15169|US|NULL");
    queue(&mut other, &addresses);
    assert_eq!(other.number("SELECT count(*) FROM ip_inventory"), 21);
    assert_eq!(server.whois.record().connections.len(), 0);
    assert!(
        server.cluster.whole_log().contains("the SQL objects are newer than the library"),
        "nobody was told"
    );

    version(&mut db, current());
    wait_for_the_queue(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn every_released_version_updates_to_what_a_fresh_install_is() {
    let server = server("upgrade-released", |options| options);
    let fresh = catalog(&mut database_of_version(&server.cluster, current()));
    let mut versions = Vec::new();
    // Includes the version that this file makes, so that there is at least one.
    for (version, script) in released().into_iter().chain([(OLD.to_owned(), old_script())]) {
        if version == current() {
            continue;
        }
        offer(&version, &script);
        let mut db = database_of_version(&server.cluster, &version);
        let name = db.name.clone();
        prepare_without_key(&mut db);
        let traffic = Traffic::new(&server.cluster, &name, 1, 11);
        for _ in 0..40 {
            traffic.step_without_calls(0);
        }
        db.run("ALTER EXTENSION cowrie_enrich UPDATE");
        for _ in 0..40 {
            traffic.step_without_calls(0);
        }
        worker_pid(&mut db);
        wait_for_the_queue(&mut db);
        assert_sessions_are(&mut db, &traffic.hold().acknowledged());
        assert_counts_are_exact(&mut db, &TABLES);
        assert_invariants(&mut db, &mut Snapshots::default());
        assert_eq!(
            differences(&catalog(&mut db), &fresh),
            [""; 0],
            "updated from {version}, and a fresh install"
        );
        versions.push(version);
    }
    eprintln!("updated to {} from {}", current(), versions.join(", "));
}

#[test]
fn what_an_operator_granted_survives_an_update() {
    let server = server("upgrade-grants", |options| options);
    let mut db = database_of_version(&server.cluster, OLD);
    db.run(
        "CREATE ROLE upgrade_analyst;
         GRANT USAGE ON SCHEMA enrich TO upgrade_analyst;
         GRANT SELECT ON enrich.ip_inventory TO upgrade_analyst;
         GRANT EXECUTE ON FUNCTION enrich.enrich_ip TO upgrade_analyst;
         ALTER EXTENSION cowrie_enrich UPDATE",
    );
    assert_eq!(
        db.one(
            "SELECT has_table_privilege('upgrade_analyst', 'ip_inventory', 'SELECT'),
                    has_table_privilege('upgrade_analyst', 'ip_inventory', 'INSERT'),
                    has_function_privilege('upgrade_analyst', 'enrich_ip(inet, boolean)', 'EXECUTE'),
                    has_table_privilege('upgrade_analyst', 'moved_addresses', 'SELECT')"
        ),
        "t|f|t|f"
    );
}

/// A comparison with a fresh install shows the parts that an update lacks.
#[test]
fn what_an_update_forgets_is_found() {
    let server = server("upgrade-forgets", |options| options);
    let fresh = catalog(&mut database_of_version(&server.cluster, current()));
    for (forgotten, instead, expected) in [
        (LACKED[0].0, "", "ip_asn_history_asn_number_idx"),
        (LACKED[2].0, "", "comment: column"),
        ("resume_at jsonb", "resume_at jsonb DEFAULT '{}'", "resume_at"),
        ("WHERE acl.grantee OPERATOR(pg_catalog.<>) member.owner", "WHERE false", "grant on"),
    ] {
        let version = format!("0.0.{}", forgotten.len());
        let script = update_script();
        assert!(script.contains(forgotten), "{forgotten}");
        offer(&version, &old_script());
        offer(&format!("{version}--{}", current()), &script.replace(forgotten, instead));
        let mut db = database_of_version(&server.cluster, &version);
        db.run("ALTER EXTENSION cowrie_enrich UPDATE");
        let found = differences(&catalog(&mut db), &fresh);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn the_script_of_a_released_version_never_changes() {
    let problem = |frozen: &[(String, String)], now: &str| {
        let frozen = frozen.iter().find(|(version, _)| version == current());
        frozen.is_some_and(|(_, script)| script != now)
    };
    let now = install_script();
    assert!(
        !problem(&released(), &now),
        "{} is released, and sql/install/ is not what it was: see sql/released/README.md for how to change it",
        current()
    );
    // Tests the check with an invented release, because there may be no release yet.
    let frozen = vec![(current().to_owned(), now.clone())];
    assert!(!problem(&frozen, &now));
    assert!(problem(&frozen, &format!("{now}\n")));
    eprintln!("released: {:?}", released().iter().map(|(version, _)| version).collect::<Vec<_>>());
}

#[test]
fn the_install_script_is_its_files_in_the_order_of_their_names() {
    workshop();
    let installed = fs::read_to_string(
        installation().sharedir.join(format!("extension/cowrie_enrich--{}.sql", current())),
    )
    .expect("the version under test is installed");
    // Between the files of the install script, pgrx inserts only comments.
    let mut rest = installed.as_str();
    for (name, text) in install_files() {
        let at = rest.find(text.trim_end()).unwrap_or_else(|| panic!("{name} is not where it should be"));
        let between = &rest[..at];
        assert!(!between.contains(';'), "something before {name}: {between}");
        rest = &rest[at + text.trim_end().len()..];
    }
    assert!(!rest.contains(';'), "something at the end: {rest}");
}

#[test]
fn every_step_between_versions_has_its_script_and_asks_for_its_library() {
    let mut steps = Vec::new();
    for entry in fs::read_dir(workspace().join("sql")).expect("sql/ is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(step) = name.strip_prefix("cowrie_enrich--").and_then(|name| name.strip_suffix(".sql"))
        else {
            continue;
        };
        let (_, to) = step.split_once("--").unwrap_or_else(|| panic!("{name} is no update"));
        let script = fs::read_to_string(entry.path()).expect("it can be read");
        let first = format!("SELECT @extschema@.require_library('{to}');");
        let statement = script.lines().find(|line| !line.is_empty() && !line.starts_with("--"));
        assert_eq!(statement, Some(first.as_str()), "the first statement of {name}");
        steps.push(step.to_owned());
    }
    eprintln!("steps: {steps:?}");
}
