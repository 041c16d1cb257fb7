//! The statements of docs/scaling.md on replication: read replicas, sessions from logical replication (whose statements
//! are run here), and publications of a database with the extension.

use cowrie_enrich_test_mmdb::Writer;
use cowrie_enrich_upstreams::{Routes, Whois};
use server_tests::cymru::{Lab, assert_nothing_crashed, members, pointed_at, wait_for_the_queue};
use server_tests::database::{bare_database, cluster_with_world, fresh_database};
use server_tests::documentation::{blocks_of, page, section};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::Files;
use server_tests::{Cluster, Database, Options, Session, wait_until};

const SESSIONS: &[(&str, &str)] = &[("sessions", "ip")];

/// A sensor's server, without the extension.
fn sensor_server(name: &str) -> Cluster {
    Cluster::start(&Options::named(name).without_preload().conf("wal_level = logical"))
}

/// Returns the statement of the page that begins like this, for the schema of the tests.
fn statement(beginning: &str) -> String {
    let page = page("docs/scaling.md");
    blocks_of(section(&page, "By logical replication"))
        .into_iter()
        .map(|block| block.sql.replace("cowrie_enrich.", "enrich."))
        .find(|sql| sql.starts_with(beginning))
        .unwrap_or_else(|| panic!("docs/scaling.md has no statement {beginning}"))
}

fn subscribe(central: &mut Session, sensor: &Database<'_>) {
    let told = statement("CREATE SUBSCRIPTION");
    let (before, rest) = told.split_once("CONNECTION '").expect("a connection");
    let (_, after) = rest.split_once('\'').expect("its end");
    let socket = sensor.cluster.socket_dir().display();
    central.run(&format!(
        "{before}CONNECTION 'host={socket} port=5432 user=postgres dbname={}'{after}",
        sensor.name
    ));
}

/// The subscription holds a replication slot at the sensor, and belongs to the whole server.
fn unsubscribe(central: &mut Session) {
    central.run("DROP SUBSCRIPTION sensor_a");
}

/// Waits until all changes of the sensor so far were applied.
fn wait_for_replication(sensor: &mut Session, central: &mut Session) {
    sensor.run("CREATE TABLE IF NOT EXISTS unpublished (n int)");
    wait_until(
        "every table was copied",
        || central.number("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'"),
        |n| *n == 0,
    );
    let written = sensor.one("SELECT pg_current_wal_lsn()");
    wait_until(
        "changes were applied",
        || {
            sensor.one(&format!(
                "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{written}'), false) FROM pg_replication_slots"
            ))
        },
        |applied| applied == "t",
    );
}

#[test]
fn replicated_sessions_are_enriched_and_counted_where_the_triggers_fire_always() {
    let server = sensor_server("replication-sensor");
    let whois = Whois::start(Routes::synthetic());
    let cluster =
        cluster_with_world(&pointed_at(&whois, Options::named("replication-central").with_worker()));
    let mut sensor = bare_database(&server);
    COWRIE.create(&mut sensor);
    sensor.run(&statement("CREATE PUBLICATION"));
    let known = [("a", Some("8.8.8.8")), ("b", Some("1.1.1.1")), ("c", None), ("d", Some("nonsense"))];
    sensor.run(&COWRIE.insert(&known));

    let mut central = fresh_database(&cluster);
    COWRIE.create_attached(&mut central);
    central.run(&statement("ALTER TABLE"));
    subscribe(&mut central, &sensor);
    wait_for_replication(&mut sensor, &mut central);
    assert_eq!(COWRIE.snapshot(&mut central, "a"), "15169|US|NULL", "the first copy");
    assert_counts_are_exact(&mut central, SESSIONS);

    let unknown = members(0..1)[0].to_string();
    sensor.run(&COWRIE.insert(&[("e", Some("8.8.8.9")), ("f", Some(&unknown)), ("g", Some("1.1.1.2"))]));
    sensor.run(
        "UPDATE sessions SET ip = '139.59.0.1' WHERE id = 'c';
         UPDATE sessions SET ip = '1.1.1.9', endtime = starttime WHERE id = 'e';
         DELETE FROM sessions WHERE id = 'g'",
    );
    wait_for_replication(&mut sensor, &mut central);
    assert_eq!(COWRIE.snapshot(&mut central, "c"), "14061|IN|NULL", "an address that came late");
    assert_eq!(COWRIE.snapshot(&mut central, "e"), "15169|US|NULL", "the moment of attack stays");
    assert_counts_are_exact(&mut central, SESSIONS);
    // The worker completes it. The extension's triggers fire for it, too, and count nothing twice.
    wait_for_the_queue(&mut central);
    wait_until(
        "the session is completed",
        || central.one("SELECT snapshot_asn IS NOT NULL FROM sessions WHERE id = 'f'"),
        |done| done == "t",
    );
    assert_counts_are_exact(&mut central, SESSIONS);

    sensor.run("TRUNCATE sessions");
    wait_for_replication(&mut sensor, &mut central);
    assert_eq!(central.number("SELECT count(*) FROM sessions"), 0);
    assert_counts_are_exact(&mut central, SESSIONS);
    unsubscribe(&mut central);
    assert_nothing_crashed(&cluster);
}

#[test]
fn replicated_sessions_are_bare_otherwise_and_a_backfill_makes_up_for_it() {
    let server = sensor_server("replication-bare-sensor");
    let cluster = cluster_with_world(&Options::named("replication-bare"));
    let mut sensor = bare_database(&server);
    COWRIE.create(&mut sensor);
    sensor.run(&statement("CREATE PUBLICATION"));
    sensor.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    let mut central = fresh_database(&cluster);
    COWRIE.create_attached(&mut central);
    subscribe(&mut central, &sensor);
    wait_for_replication(&mut sensor, &mut central);
    sensor.run(&COWRIE.insert(&[("b", Some("8.8.8.8"))]));
    wait_for_replication(&mut sensor, &mut central);
    central.run("CALL enrich.fold_statistics()");
    assert_eq!(central.rows("SELECT id, snapshot_asn FROM sessions ORDER BY 1").len(), 2);
    assert_eq!(central.number("SELECT count(snapshot_asn) FROM sessions"), 0);
    assert_eq!(central.number("SELECT count(*) FROM enrich.ip_inventory"), 0);

    central.run("CALL enrich.backfill_sessions('sessions', progress => false)");
    assert_eq!(COWRIE.snapshot(&mut central, "b"), "15169|US|NULL");
    assert_counts_are_exact(&mut central, SESSIONS);
    unsubscribe(&mut central);
}

#[test]
fn a_publication_of_all_tables_stops_neither_folding_nor_the_queue() {
    let lab = Lab::start(Options::named("replication-publisher").with_worker().conf("wal_level = logical"));
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run("CREATE PUBLICATION everything FOR ALL TABLES");
    let addresses = members(0..3);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    wait_for_the_queue(&mut db);
    db.run("DELETE FROM session_summaries WHERE session_id = 's0'");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    db.run("CALL enrich.refresh_session_counts()");
    db.run("CALL enrich.build_asn_inventory(progress => false)");
    // All tables that the extension deletes from or updates have a replica identity.
    assert_eq!(
        db.rows(
            "SELECT c.relname FROM pg_class c
             JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
             JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'cowrie_enrich'
             WHERE c.relkind = 'r' AND c.relreplident <> 'f'
               AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
        ),
        [] as [&str; 0]
    );
    lab.assert_nothing_crashed();
}

#[test]
fn a_read_replica_answers_analysts_and_takes_newer_mmdb_files_of_its_own() {
    let primary = cluster_with_world(&Options::named("replica-primary"));
    let mut db = fresh_database(&primary);
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.9"))]));
    db.run("CALL enrich.fold_statistics()");
    let replica = primary.standby(&Options::named("replica"));
    let mut there = replica.session(&db.name);
    for question in [
        "SELECT asn_number, sessions FROM enrich.campaign_networks('sessions', 's.sensor = 1')",
        "SELECT asn_number, total_session_count FROM enrich.network_activity",
    ] {
        assert_eq!(there.rows(question), ["15169|2"], "{question}");
    }
    for view in
        ["moved_addresses", "persistent_addresses", "attached_tables", "queue_status", "enrich_progress"]
    {
        there.run(&format!("SELECT * FROM enrich.{view}"));
    }
    for call in ["CALL enrich.refresh_session_counts()", "CALL enrich.refresh_stale()"] {
        assert_eq!(there.refused(call).code, "25006", "{call}");
    }

    let newer = Files::below(replica.files());
    let mut city = Writer::new("GeoLite2-City", 6);
    city.insert("8.8.8.0/24", serde_json::json!({"country": {"iso_code": "SE", "names": {"en": "Sweden"}}}));
    city.write(&newer.city);
    replica.reconfigure(&newer.settings()[..1]);
    wait_until(
        "the newer file serves",
        || there.one("SELECT ip_country('8.8.8.8')"),
        |country| country == "SE",
    );
    assert_eq!(db.one("SELECT ip_country('8.8.8.8')"), "US", "the primary has its own");
}

/// Sensors with the extension publish snapshots of the time of the attack. The central database decides if it uses
/// them.
#[test]
fn snapshots_of_sensors_that_enrich_are_kept_in_a_trusted_table() {
    let server = sensor_server("replication-enriching-sensor");
    let cluster = cluster_with_world(&Options::named("replication-trusting"));
    let mut sensor = bare_database(&server);
    COWRIE.create(&mut sensor);
    sensor
        .run("ALTER TABLE sessions ADD snapshot_asn bigint, ADD snapshot_country text, ADD enrichment jsonb");
    sensor.run(&statement("CREATE PUBLICATION"));
    let insert = |sensor: &mut Session, key: &str| {
        sensor.run(&format!(
            "INSERT INTO sessions (id, starttime, ip, snapshot_asn, snapshot_country, enrichment)
             VALUES ('{key}', now(), '8.8.8.8', 64500, 'SE', '{{\"maxmind\": {{\"asn\": 64500}}}}')"
        ));
    };
    insert(&mut sensor, "copied");
    let mut central = fresh_database(&cluster);
    COWRIE.create_attached(&mut central);
    central.run(&statement("ALTER TABLE"));
    central.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
    subscribe(&mut central, &sensor);
    wait_for_replication(&mut sensor, &mut central);
    insert(&mut sensor, "trusted");
    wait_for_replication(&mut sensor, &mut central);
    central.run("SELECT enrich.set_session_table_options('sessions', NULL, false)");
    insert(&mut sensor, "untrusted");
    sensor.run("UPDATE sessions SET snapshot_asn = 64501, endtime = starttime WHERE id = 'trusted'");
    wait_for_replication(&mut sensor, &mut central);
    assert_eq!(COWRIE.snapshot(&mut central, "copied"), "64500|SE|NULL");
    assert_eq!(COWRIE.snapshot(&mut central, "trusted"), "64500|SE|NULL", "the moment of attack stays");
    assert_eq!(COWRIE.snapshot(&mut central, "untrusted"), "15169|US|NULL");
    assert_counts_are_exact(&mut central, SESSIONS);
    unsubscribe(&mut central);
}
