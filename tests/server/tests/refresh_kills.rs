//! Calls of refresh_session_counts() and refresh_stale() that are killed while they wait for a lock. The test chooses
//! the place. The work of the current transaction is lost.

use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::{self, Files, asn_record, crowd_address};
use server_tests::{Cluster, Options, Session, fresh_database, wait_until};

const TABLES: [(&str, &str); 2] = [("sessions", "ip"), ("session_summaries", "source_ip")];

/// Returns the rows of the inventories, without the times at which they were written.
fn inventories(db: &mut Session) -> Vec<String> {
    let mut all = Vec::new();
    for query in [
        "SELECT ip_address, current_asn, first_seen, last_seen, session_count, geo_country,
                (enrichment - '_meta') #- '{maxmind,cached_at}'
         FROM enrich.ip_inventory ORDER BY 1",
        "SELECT asn_number, organization_name, organization_country, first_seen, last_seen, unique_ip_count,
                total_session_count, enrichment
         FROM enrich.asn_inventory ORDER BY 1",
        "SELECT ip_address, asn_number, verification_source FROM enrich.ip_asn_history ORDER BY 1, observed_at",
        "SELECT DISTINCT ip_address, provider FROM enrich.enrichment_request ORDER BY 1, 2",
    ] {
        all.extend(db.rows(query));
    }
    all
}

/// Makes a call while another transaction holds the locks of `hold`, and kills the call when it waits for them. Returns
/// the phase of the call.
fn killed_while(cluster: &Cluster, database: &str, hold: &str, call: &'static str) -> String {
    let mut holder = cluster.session(database);
    holder.run(&format!("BEGIN; {hold}"));
    let mut caller = cluster.session(database);
    let pid = caller.backend_pid();
    let running = std::thread::spawn(move || caller.try_run(call));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    wait_until(
        "the call waits",
        || (cluster.session(database).number(&waits), running.is_finished()),
        |(waits, finished)| *waits == 1 || *finished,
    );
    if running.is_finished() {
        let ended = running.join().expect("the thread ends");
        let reported = cluster.session(database).rows("SELECT result FROM enrich.procedure_call");
        panic!("it did not wait for {hold}: {ended:?}, {reported:?}");
    }
    let phase =
        cluster.session(database).rows("SELECT phase, done, total FROM enrich.enrich_progress").concat();
    cluster.kill_backend(pid);
    assert!(running.join().expect("the thread ends").is_err(), "the call outlived its process");
    phase
}

/// Makes one more call, and compares the result with that of one uninterrupted run.
#[track_caller]
fn assert_ends_as(db: &mut Session, call: &str, expected: &[String]) {
    db.run(call);
    let found = inventories(db);
    assert_eq!(found.len(), expected.len());
    for (is, should) in found.iter().zip(expected) {
        assert_eq!(is, should, "after kills (left) and after one clean run");
    }
    assert_counts_are_exact(db, &TABLES);
}

/// Makes all counts wrong, pending ones too.
const SPOIL: &str = "
    UPDATE enrich.ip_inventory SET session_count = session_count + 7, first_seen = NULL;
    UPDATE enrich.asn_inventory SET unique_ip_count = 0, total_session_count = 3, last_seen = NULL;
    INSERT INTO enrich.session_delta SELECT ip_address, 5 FROM enrich.ip_inventory ORDER BY ip_address DESC LIMIT 90;
    INSERT INTO enrich.network_delta SELECT asn_number, 1, 4 FROM enrich.asn_inventory";

/// Stores sessions of many addresses, counts them, and makes the counts wrong.
fn miscounted(db: &mut Session) {
    COWRIE.create_attached(db);
    SUMMARIES.create_attached(db);
    let mut random = Random::seeded(3);
    for (host, sessions) in [(COWRIE, 3_000), (SUMMARIES, 2_000)] {
        let rows: Vec<_> = (0..sessions).map(|n| (format!("{n}"), crowd_address(&mut random, 500))).collect();
        let rows: Vec<_> = rows.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
        db.run(&host.insert(&rows));
    }
    db.run("CALL enrich.fold_statistics()");
    db.run(SPOIL);
}

#[test]
fn a_recount_that_is_killed_and_called_again_ends_as_one_clean_run() {
    const CALL: &str = "CALL enrich.refresh_session_counts()";
    let cluster = cluster_with_world(&Options::named("recount_kills").conf("restart_after_crash = on"));
    let mut clean = fresh_database(&cluster);
    miscounted(&mut clean);
    clean.run(CALL);
    let expected = inventories(&mut clean);
    drop(clean);

    let mut db = fresh_database(&cluster);
    miscounted(&mut db);
    let name = db.name.clone();
    drop(db);
    // Locked rows do not stop the call: their corrections stay pending.
    for hold in [
        // With these locks, the call cannot count all tables, although there are counts to correct.
        "LOCK TABLE session_summaries",
        "LOCK TABLE sessions",
        "LOCK TABLE enrich.session_delta IN SHARE MODE",
        "LOCK TABLE enrich.network_delta IN SHARE MODE",
    ] {
        cluster.session(&name).run(SPOIL);
        let phase = killed_while(&cluster, &name, hold, CALL);
        let pending = "SELECT count(*) FROM enrich.session_delta";
        let pending = cluster.session(&name).number(pending);
        eprintln!("killed in {phase} while it waited for: {hold}; {pending} corrections were pending");
    }
    assert_ends_as(&mut cluster.session(&name), CALL, &expected);
}

#[test]
fn a_refresh_that_is_killed_and_called_again_ends_as_one_clean_run() {
    const CALL: &str = "CALL enrich.refresh_stale(max_ips => 1000000)";
    const CROWD: u64 = 3_500;
    let cluster = cluster_with_world(
        &Options::named("refresh_kills")
            .conf("restart_after_crash = on")
            .conf("cowrie_enrich.enabled_sources = 'maxmind,cymru'"),
    );
    let mut databases = [fresh_database(&cluster), fresh_database(&cluster)];
    for db in &mut databases {
        COWRIE.create_attached(db);
        SUMMARIES.create_attached(db);
        let rows: Vec<_> = (0..CROWD).map(|n| (format!("k{n}"), world::crowd_member(n))).collect();
        let mut rows: Vec<_> = rows.iter().map(|(key, ip)| (key.as_str(), Some(ip.as_str()))).collect();
        // The network of this address is unknown, so Team Cymru gets a request.
        rows.push(("unplaced", Some("203.0.114.9")));
        db.run(&COWRIE.insert(&rows));
        db.run("CALL enrich.fold_statistics(); TRUNCATE enrich.enrichment_request");
    }
    let mut networks = world::asn_database().build_epoch(1_800_000_000);
    for n in (0..CROWD).step_by(3) {
        networks.insert(&format!("{}/32", world::crowd_member(n)), asn_record(64_500 + n % 7, "Elsewhere"));
    }
    let files = Files::below(cluster.files());
    networks.write(&files.asn);
    world::city_database().build_epoch(1_800_000_000).write(&files.city);
    let [mut clean, db] = databases;
    clean.run("SELECT enrich.reload_mmdb()");
    clean.run(CALL);
    let expected = inventories(&mut clean);
    let name = db.name.clone();
    let stale = "SELECT count(*) FROM enrich.ip_inventory WHERE enrich.is_source_stale(enrichment, current_asn, 'maxmind')";
    assert_eq!(clean.number(stale), 0);
    let all = db.another().number(stale);
    drop((clean, db));

    let address = |place: &str| {
        // The OFFSET is in a subquery. Otherwise the skipped rows would be locked too.
        format!(
            "SELECT FROM enrich.ip_inventory WHERE ip_address =
                 (SELECT ip_address FROM enrich.ip_inventory ORDER BY ip_address OFFSET {place} LIMIT 1) FOR UPDATE"
        )
    };
    let mut phases = Vec::new();
    let mut left = vec![all];
    for hold in [
        address("500"),
        // The first batch is committed, the second is not.
        address("1500"),
        address("3400"),
        "LOCK TABLE enrich.ip_asn_history IN SHARE MODE".to_owned(),
        "LOCK TABLE enrich.enrichment_request IN SHARE MODE".to_owned(),
    ] {
        phases.push(killed_while(&cluster, &name, &hold, CALL));
        left.push(cluster.session(&name).number(stale));
    }
    eprintln!("killed in: {phases:?}, stale addresses left: {left:?}");
    assert!(left.windows(2).all(|pair| pair[0] >= pair[1]) && left.iter().any(|n| (1..all).contains(n)));
    assert!(phases.last().is_some_and(|phase| phase.starts_with("cymru")));
    assert_ends_as(&mut cluster.session(&name), CALL, &expected);
}
