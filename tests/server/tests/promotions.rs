//! A server that starts from the log of another one in the middle of its work. It is a promoted standby whose primary
//! was killed, or a base backup that is recovered up to a point. It has only the data directory and the log. All
//! invariants must hold.

use std::fs;
use std::time::{Duration, SystemTime};

use cowrie_enrich_upstreams::{Behaviour, Routes, Whois};
use server_tests::cymru::{assert_nothing_crashed, pointed_at, wait_for_the_queue, worker_pid};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::hosts::COWRIE;
use server_tests::installation::installation;
use server_tests::invariants::{Snapshots, assert_invariants, assert_shared_memory_is_sane};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::traffic::{TABLES, Traffic, assert_sessions_are, prepare};
use server_tests::{Cluster, Options, Session, wait_until};

const CLIENTS: usize = 3;

fn seed() -> u64 {
    let given = std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    given.unwrap_or_else(|| u64::from(clock()))
}

fn slow_whois() -> Whois {
    let whois = Whois::start(Routes::synthetic());
    whois.behave(Behaviour::normal().delayed(Duration::from_millis(60)));
    whois
}

fn options(whois: &Whois, name: &str) -> Options {
    pointed_at(
        whois,
        Options::named(name)
            .with_worker()
            .conf("full_page_writes = on")
            .conf("cowrie_enrich.cymru_batch_size = 10"),
    )
}

/// Asserts that the server works by itself until the queue is empty.
#[track_caller]
fn assert_it_works_on(server: &Cluster, name: &str, seen: &mut Snapshots) -> Session {
    let mut db = server.session(name);
    worker_pid(&mut db);
    wait_for_the_queue(&mut db);
    assert_invariants(&mut db, seen);
    assert_counts_are_exact(&mut db, &TABLES);
    assert_shared_memory_is_sane(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NULL AND NOT is_bogon"),
        0,
        "addresses without their network"
    );
    assert_nothing_crashed(server);
    db
}

#[test]
fn a_standby_that_is_promoted_while_its_primary_is_killed_holds_what_was_acknowledged() {
    let seed = seed();
    eprintln!("COWRIE_ENRICH_SEED={seed}");
    let mut random = Random::seeded(seed);
    let whois = slow_whois();
    let primary = cluster_with_world(&options(&whois, "promotion-primary"));
    let mut db = fresh_database(&primary);
    let name = db.name.clone();
    prepare(&mut db);
    drop(db);
    let standby = primary.standby(&options(&whois, "promotion-standby"));
    // A commit is acknowledged only when the standby has it, too.
    primary.reconfigure(&["synchronous_standby_names = '*'".to_owned()]);
    wait_until(
        "the standby is synchronous",
        || primary.session("postgres").rows("SELECT sync_state FROM pg_stat_replication"),
        |states| *states == ["sync"],
    );

    let traffic = Traffic::new(&primary, &name, CLIENTS, seed);
    let mut seen = Snapshots::default();
    let acknowledged = traffic.during(|| {
        traffic.wait_for_transactions(100);
        // The invariants also hold while the standby follows.
        let mut there = standby.session(&name);
        assert_eq!(there.one("SELECT pg_is_in_recovery()"), "t");
        assert_invariants(&mut there, &mut seen);
        traffic.wait_for_transactions(50);
        let leased = "SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL";
        let mut here = primary.session(&name);
        wait_until("a batch is under way", || here.number(leased), |jobs| *jobs > 0);
        std::thread::sleep(Duration::from_millis(random.below(100)));
        primary.kill_postmaster();
        assert_eq!(there.one("SELECT pg_promote()"), "t");
        traffic.turn_to(&standby);
        // Only the old primary has written so far.
        let held = traffic.hold();
        assert_sessions_are(&mut there, &held.acknowledged());
        drop(held);
        assert_invariants(&mut there, &mut seen);
        assert_eq!(there.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')"), "US|15169");
        traffic.wait_for_transactions(100);
        assert_invariants(&mut there, &mut seen);
        traffic.end();
        traffic.hold().acknowledged()
    });
    let mut there = assert_it_works_on(&standby, &name, &mut seen);
    assert_sessions_are(&mut there, &acknowledged);
    eprintln!("{} sessions", acknowledged.len());
}

/// Returns a restore point at which the count of the session "the last" is not folded yet. The worker may fold at any
/// time.
fn point_with_a_count_pending(session: &mut Session) -> String {
    let mut tried = 0;
    loop {
        tried += 1;
        let name = format!("middle-{tried}");
        session.run(&COWRIE.insert(&[("the last", Some("23.9.0.1"))]));
        // Checks before and after creating the restore point that exactly one count is pending, because a fold may
        // have run in between.
        let pending = |session: &mut Session| {
            session.number("SELECT count(*) FROM enrich.session_delta WHERE ip_address = '23.9.0.1'")
        };
        let before = pending(session);
        session.run(&format!("SELECT pg_create_restore_point('{name}')"));
        let after = pending(session);
        session.run("DELETE FROM sessions WHERE id = 'the last'");
        if (before, after) == (1, 1) {
            return name;
        }
    }
}

#[test]
fn a_base_backup_recovered_to_a_point_in_the_middle_of_a_run_holds_what_was_acknowledged_then() {
    let seed = seed();
    eprintln!("COWRIE_ENRICH_SEED={seed}");
    let whois = slow_whois();
    let archive = server_tests::cluster::scratch_directory("promotion-archive");
    let archived = format!("archive_command = 'test ! -f {0}/%f && cp %p {0}/%f'", archive.path().display());
    let primary = cluster_with_world(
        &options(&whois, "pitr-primary")
            .conf("archive_mode = on")
            .conf(&archived)
            .conf("wal_level = replica"),
    );
    let mut db = fresh_database(&primary);
    let name = db.name.clone();
    prepare(&mut db);
    drop(db);
    let traffic = Traffic::new(&primary, &name, CLIENTS, seed);
    let mut seen = Snapshots::default();
    let (backup, then, jobs_then, middle) = traffic.during(|| {
        traffic.wait_for_transactions(60);
        let backup = primary.base_backup("backup");
        traffic.wait_for_transactions(60);
        // The clients are stopped at the restore point. The worker is running and holds leases.
        let held = traffic.hold();
        let then = held.acknowledged();
        let mut session = primary.session(&name);
        let jobs = wait_until(
            "a batch is under way",
            || {
                session.run("SELECT enrich.request_enrichment('60.0.0.9', 'cymru')");
                session.number("SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL")
            },
            |jobs| *jobs > 0,
        );
        let middle = point_with_a_count_pending(&mut session);
        drop(held);
        traffic.wait_for_transactions(60);
        traffic.end();
        (backup, then, jobs, middle)
    });
    let mut session = primary.session(&name);
    session.run("SELECT pg_switch_wal()");
    let current = session.one("SELECT pg_walfile_name(pg_current_wal_lsn())");
    wait_until(
        "all before is archived",
        || session.one("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"),
        |last| last.as_str() >= &current[..23] && fs::read_dir(archive.path()).is_ok(),
    );
    // Starts a second server from the primary's archive. The primary continues to run, so both servers send requests.
    let restored = Cluster::restored(
        &options(&whois, "pitr-restored")
            .conf(&format!("restore_command = 'cp {}/%f %p'", archive.path().display()))
            .conf(&format!("recovery_target_name = '{middle}'"))
            .conf("recovery_target_action = 'promote'")
            .conf("archive_mode = off")
            // The worker stays off until the rows were compared.
            .conf("cowrie_enrich.worker_enabled = off"),
        &backup,
    );
    wait_until(
        "it is promoted",
        || restored.session("postgres").one("SELECT pg_is_in_recovery()"),
        |recovers| recovers == "f",
    );
    let mut there = restored.session(&name);
    let mut seen_there = Snapshots::default();
    assert_invariants(&mut there, &mut seen_there);
    assert_eq!(
        there.one(
            "SELECT count(*), sum(sessions) > 0 FROM enrich.session_delta WHERE ip_address = '23.9.0.1'"
        ),
        "1|t"
    );
    there.run("DELETE FROM sessions WHERE id = 'the last'");
    assert_sessions_are(&mut there, &then);
    assert_eq!(there.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')"), "US|15169");
    restored.reconfigure(&["cowrie_enrich.worker_enabled = on".to_owned()]);
    let mut there = assert_it_works_on(&restored, &name, &mut seen_there);
    assert_sessions_are(&mut there, &then);
    assert_it_works_on(&primary, &name, &mut seen);
    eprintln!(
        "{} sessions of {}, {jobs_then} jobs were under way",
        then.len(),
        traffic.hold().acknowledged().len()
    );
}

/// A backup tool copies one file after the other. So it may have a status that names a missing copy, or an incomplete
/// draft.
#[test]
fn a_backup_without_the_copy_that_its_status_names_makes_it_anew() {
    let primary = cluster_with_world(&Options::named("copies-primary"));
    let name = fresh_database(&primary).name.clone();
    let backup = primary.base_backup("backup");
    let mut gone = 0;
    for entry in fs::read_dir(backup.join("cowrie_enrich")).expect("the backup has it").flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.ends_with(".mmdb") {
            let draft = entry.path().with_file_name("asn.draft");
            fs::write(&draft, "half of it").expect("it can be written");
            installation().give_to_server(&draft);
            fs::remove_file(entry.path()).expect("it can be removed");
            gone += 1;
        }
    }
    assert_eq!(gone, 2);
    let restored =
        Cluster::restored(&Options::named("copies-restored").conf("restore_command = 'false'"), &backup);
    wait_until(
        "it is a server of its own",
        || restored.session("postgres").one("SELECT pg_is_in_recovery()"),
        |recovers| recovers == "f",
    );
    let mut db = restored.session(&name);
    assert_eq!(db.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')"), "US|15169");
    assert_eq!(
        db.number("SELECT count(*) FROM mmdb_status() WHERE loaded_at IS NOT NULL AND last_error IS NULL"),
        2
    );
}
