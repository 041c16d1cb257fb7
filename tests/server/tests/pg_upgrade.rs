//! pg_upgrade from the PostgreSQL under test to newer ones: nothing is lost or counted twice, and the worker resumes.
//!
//! Targets are all newer `target/postgres/16…18` that have the extension. `COWRIE_ENRICH_PG_UPGRADE_TO` names pg_config
//! programs instead, separated by blanks. Each of these must exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, Fault, Routes, Whois};
use server_tests::cluster::{Scratch, scratch_directory};
use server_tests::contents::contents;
use server_tests::cymru::{
    array, assert_nothing_crashed, members, pointed_at, wait_for_the_queue, worker_pid,
};
use server_tests::database::{TEMPLATE, cluster_with_world, fresh_database};
use server_tests::installation::{Installation, installation, workspace};
use server_tests::invariants::{Snapshots, assert_invariants, assert_shared_memory_is_sane};
use server_tests::recount::assert_counts_are_exact;
use server_tests::releases::{catalog, differences};
use server_tests::traffic::{TABLES, Traffic, assert_sessions_are, prepare};
use server_tests::world::Files;
use server_tests::{Cluster, Options, wait_until};

/// Returns the newer installations that have the extension.
fn newer() -> Vec<&'static Installation> {
    let named = std::env::var("COWRIE_ENRICH_PG_UPGRADE_TO").unwrap_or_default();
    let known = |path: PathBuf| -> &'static Installation { Box::leak(Box::new(Installation::of(path))) };
    let mut all: Vec<&Installation> = named.split_whitespace().map(|path| known(path.into())).collect();
    if all.is_empty() {
        let places =
            (16..=18).map(|major| workspace().join(format!("target/postgres/{major}/bin/pg_config")));
        all = places.filter(|place| place.exists()).map(known).collect();
        all.retain(|there| has_the_extension(there));
    }
    for there in &all {
        assert!(has_the_extension(there), "{} lacks the extension", there.pg_config.display());
    }
    all.retain(|there| there.major > installation().major);
    assert!(
        named.trim().is_empty() || !all.is_empty(),
        "none of {named} is newer than {}",
        installation().version
    );
    all
}

fn has_the_extension(there: &Installation) -> bool {
    there.sharedir.join("extension/cowrie_enrich.control").exists()
        && there.pkglibdir.join("cowrie_enrich.so").exists()
        && there.bindir.join("pg_upgrade").exists()
}

/// PostgreSQL 15.20 writes the option `pg_attver` to the columns of every relation. The minor releases of the same
/// day, and later ones, know this option. An older minor release of a newer major version refuses it, even without
/// any extension.
fn knows_versions_of_columns(there: &Installation) -> bool {
    let program = fs::read(there.bindir.join("postgres")).expect("the server is there");
    program.windows(b"pg_attver".len()).any(|bytes| bytes == b"pg_attver")
}

/// A data directory that pg_upgrade has filled.
struct Upgraded {
    directory: Scratch,
}

impl Upgraded {
    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The old server is stopped. The settings are copied, because pg_upgrade leaves them to the operator.
    fn from(old: &Cluster, new: &Installation) -> Upgraded {
        let upgraded = Upgraded { directory: scratch_directory(&format!("pg-upgrading-{}", new.major)) };
        // Checksums are on by default since version 18, and the old server has none.
        let checksums: &[&str] = if new.major >= 18 { &["--no-data-checksums"] } else { &[] };
        new.initdb(&upgraded.data(), checksums);
        let conf = upgraded.data().join("postgresql.conf");
        let mut settings = fs::read_to_string(&conf).expect("initdb wrote it");
        settings.push_str(
            "shared_preload_libraries = 'cowrie_enrich'\nmax_prepared_transactions = 20\nfsync = off\n",
        );
        fs::write(&conf, settings).expect("own directory");
        for kind in ["--check", "--jobs=2"] {
            let mut upgrade = new.server_program("pg_upgrade");
            upgrade
                .current_dir(upgraded.directory.path())
                .env("PGUSER", "postgres")
                .arg("--old-bindir")
                .arg(&installation().bindir)
                .arg("--new-bindir")
                .arg(&new.bindir)
                .arg("--old-datadir")
                .arg(old.data_dir())
                .arg("--new-datadir")
                .arg(upgraded.data())
                // The path of a socket must be short.
                .arg("--socketdir")
                .arg(old.socket_dir())
                .arg(kind);
            let output = upgrade.output().expect("pg_upgrade runs");
            succeeded(&output, &format!("pg_upgrade {kind}\n{}", logs_below(upgraded.directory.path())));
        }
        upgraded
    }
}

fn succeeded(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns the log files of pg_upgrade after a failure.
fn logs_below(directory: &Path) -> String {
    let found = Command::new("find").arg(directory).args(["-name", "*.log", "-o", "-name", "*.txt"]).output();
    let names = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    names
        .lines()
        .filter_map(|name| fs::read_to_string(name).ok().map(|text| format!("{name}:\n{text}\n")))
        .filter(|text| text.contains("ERROR") || text.contains("FATAL") || text.ends_with(".txt"))
        .collect()
}

#[test]
fn sessions_counts_and_queue_survive_pg_upgrade_and_the_worker_goes_on() {
    let targets = newer();
    if targets.is_empty() {
        eprintln!(
            "no PostgreSQL newer than {} has the extension: nothing to upgrade to",
            installation().version
        );
        return;
    }
    let whois = Whois::start(Routes::synthetic());
    let options = |name: &str| {
        pointed_at(&whois, Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 100ms"))
    };
    let old = cluster_with_world(&options("pg-upgrade"));
    let mut db = fresh_database(&old);
    let name = db.name.clone();
    prepare(&mut db);
    db.run("SELECT enrich.set_session_priority('sessions', 'length(s.id)')");
    db.run(
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type) VALUES (64500, 'Example', 'ISP')",
    );
    let traffic = Traffic::new(&old, &name, 1, 5);
    let known = members(3_000..3_030);
    db.run(&format!("SELECT enrich.enrich_ips({})", array(&known)));
    wait_for_the_queue(&mut db);
    db.run("CALL enrich.refresh_session_counts()");
    // From here on requests of the worker are held, and pending counts accumulate.
    whois.behave(Fault::Held);
    for _ in 0..60 {
        traffic.step(0);
    }
    db.run(
        "INSERT INTO enrich.dead_letter VALUES ('cymru', '60.0.9.9', 'prefix', '60.0.9.0/24', 0, 3, 'tried', now())",
    );
    let leased = "SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL";
    wait_until("a batch is under way", || db.number(leased), |jobs| *jobs > 0);
    let held = traffic.hold();
    let acknowledged = held.acknowledged();
    drop(held);
    // Sessions are stored while the worker is disabled, so that their counts are pending.
    old.reconfigure(&["cowrie_enrich.worker_enabled = off".to_owned()]);
    wait_until(
        "the worker has gone",
        || db.number("SELECT count(*) FROM enrich.worker_status() WHERE role = 'worker' AND pid IS NOT NULL"),
        |workers| *workers == 0,
    );
    db.run("INSERT INTO sessions (id, starttime, ip) SELECT 'pending' || n, now(), '23.7.0.' || n FROM generate_series(1, 40) n");
    let pending = db.number("SELECT count(*) FROM enrich.session_delta");
    assert!(pending > 0);
    let mut seen = Snapshots::default();
    assert_invariants(&mut db, &mut seen);
    let before = contents(&mut db);
    let objects = catalog(&mut db);
    if targets.iter().any(|new| !knows_versions_of_columns(new)) {
        // Removes the option, so that the tables are like tables from an earlier minor release.
        for database in db.rows("SELECT datname FROM pg_database WHERE datallowconn") {
            old.session(&database).run(
                "UPDATE pg_attribute SET attoptions = NULL WHERE attrelid >= 16384 AND attoptions::text LIKE '{pg\\_attver=%}'",
            );
        }
        eprintln!("the columns' option pg_attver was taken away: a newer server here does not know it");
    }
    drop(db);
    // pg_upgrade must be able to connect to every database.
    let mut admin = old.session("postgres");
    admin.run(&format!("ALTER DATABASE {TEMPLATE} IS_TEMPLATE false"));
    admin.run(&format!("DROP DATABASE {TEMPLATE}"));
    // No worker runs in the servers that pg_upgrade starts, even if the settings enable it.
    old.configure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
    old.stop_fast();

    for new in &targets {
        let upgraded = Upgraded::from(&old, new);
        whois.behave(Fault::Held);
        let mut settings = options(&format!("pg-upgraded-{}", new.major)).run_by(new);
        for line in Files::below(old.files()).settings() {
            settings = settings.conf(&line);
        }
        // The worker stays off until the rows were compared.
        let server = Cluster::made(&settings.conf("cowrie_enrich.worker_enabled = off"), |data| {
            fs::rename(upgraded.data(), data).expect("both are below target/");
        });
        let mut db = server.session(&name);
        let after = contents(&mut db);
        assert_eq!(differences(&after, &before), [""; 0], "rows after and before");
        assert_eq!(db.number("SELECT count(*) FROM enrich.session_delta"), pending, "pending counts");
        // A newer server may print views in another form and allow more. These differences are ignored.
        let kinds =
            ["comment:", "member: function", "member: table", "index:", "trigger:", "dumped:", "routine:"];
        let same = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).cloned().collect()
        };
        assert_eq!(
            differences(&same(&catalog(&mut db)), &same(&objects)),
            [""; 0],
            "objects after and before"
        );
        assert_invariants(&mut db, &mut seen);

        // The new directory lacks the private copies of mmdb files. A lookup makes them again.
        assert_eq!(db.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')"), "US|15169");
        db.run("INSERT INTO sessions (id, starttime, ip) VALUES ('new', now(), '8.8.8.8')");
        assert_eq!(
            db.one("SELECT snapshot_asn, snapshot_country FROM sessions WHERE id = 'new'"),
            "15169|US"
        );
        db.run("DELETE FROM sessions WHERE id = 'new'");

        whois.behave(Behaviour::normal().delayed(Duration::from_millis(5)));
        server.reconfigure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
        worker_pid(&mut db);
        wait_for_the_queue(&mut db);
        db.run("DELETE FROM sessions WHERE id LIKE 'pending%'");
        assert_sessions_are(&mut db, &acknowledged);
        assert_invariants(&mut db, &mut seen);
        assert_counts_are_exact(&mut db, &TABLES);
        assert_shared_memory_is_sane(&mut db);
        assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 1);
        assert_nothing_crashed(&server);
        eprintln!(
            "pg_upgrade from {} to {}: {} sessions, {} rows",
            installation().version,
            db.one("SHOW server_version"),
            acknowledged.len(),
            after.len()
        );
        seen = Snapshots::default();
    }
}
