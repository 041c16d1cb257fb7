//! A standby runs all read-only functions. After promotion its worker works through the queue.

use cowrie_enrich_upstreams::{Routes, Whois};
use server_tests::cymru::{
    assert_nothing_crashed, assert_placed, members, pointed_at, provider, queue, wait_for_the_queue,
    worker_pid,
};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::hosts::SUMMARIES;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, wait_until};

#[test]
fn a_standby_answers_lookups_and_works_off_the_queue_once_it_is_promoted() {
    let whois = Whois::start(Routes::synthetic());
    // The worker of the primary is disabled, so that the queue stays.
    let primary = cluster_with_world(&pointed_at(&whois, Options::named("standby-primary")));
    let mut db = fresh_database(&primary);
    let name = db.name.clone();
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..30);
    let (sessions, requests) = addresses.split_at(20);
    for (n, address) in sessions.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    let before_the_backup = db.number("SELECT count(*) FROM enrich.enrichment_request");
    assert_eq!(before_the_backup, 20);

    let standby = primary.standby(&pointed_at(&whois, Options::named("standby").with_worker()));
    let mut there = standby.session(&name);
    assert_eq!(there.one("SELECT pg_is_in_recovery()"), "t");
    // Requests that arrive by replication.
    queue(&mut db, requests);
    wait_until(
        "the standby has followed",
        || there.number("SELECT requested FROM enrich.queue_status WHERE provider = 'cymru'"),
        |n| *n == 30,
    );
    assert_eq!(
        there.one(
            "SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8'), ip_asn_org('8.8.8.8'), ip_city('8.8.8.8'),
                    is_bogon('10.0.0.1'), maxmind_lookup('1.1.1.1') ->> 'asn'"
        ),
        "US|15169|GOOGLE|Mountain View|t|13335"
    );
    assert_eq!(
        there.rows("SELECT ip_address, asn_number, is_known FROM lookup_ips('{8.8.8.8:53,48.0.0.1}')"),
        ["8.8.8.8|15169|f", "48.0.0.1|NULL|f"]
    );
    assert_eq!(there.number("SELECT count(*) FROM mmdb_status() WHERE loaded_at IS NOT NULL"), 2);
    assert_eq!(there.number("SELECT count(*) FROM enrich.ip_inventory"), 20);
    assert_eq!(
        there.rows("SELECT role, database, pid IS NOT NULL, state FROM enrich.worker_status()"),
        ["launcher|NULL|t|waiting for promotion of this standby"]
    );
    assert_eq!(there.number("SELECT total_ips FROM enrich.enrich_stats()"), 0);
    assert_eq!(
        there.one("SELECT value FROM enrich.enrich_metrics WHERE name = 'asn_inventory_size'"),
        there.one("SELECT count(*) FROM enrich.asn_inventory")
    );
    assert!(there.one("SELECT prometheus_metrics()").contains("enrich_launcher_up 1"));
    for statement in [
        "SELECT enrich_ip('8.8.8.8')",
        "SELECT request_enrichment('48.0.0.1', 'cymru')",
        "CALL fold_statistics()",
    ] {
        assert_eq!(there.refused(statement).code, "25006", "{statement}");
    }
    // A lookup does not write.
    assert_eq!(there.number("SELECT asn FROM cymru_lookup('{60.0.0.1}')"), 1_000_000 + 60 * 256);
    assert_eq!(whois.record().connections.len(), 1);
    assert_eq!(
        there.rows("SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'cowrie_enrich%'"),
        ["cowrie_enrich launcher"],
        "nobody works on a standby"
    );

    primary.stop_fast();
    standby.promote();
    worker_pid(&mut there);
    wait_for_the_queue(&mut there);
    assert_placed(&mut there, &addresses);
    assert_eq!(
        there.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NOT NULL"),
        20,
        "sessions that waited are complete"
    );
    assert_counts_are_exact(&mut there, &[("session_summaries", "source_ip")]);
    assert_eq!(there.one("SELECT state FROM enrich.worker_status() WHERE role = 'launcher'"), "running");
    assert_eq!(provider(&mut there, "dead_letters"), 0);
    there.run(&SUMMARIES.insert(&[("new", Some("60.0.0.77"))]));
    wait_for_the_queue(&mut there);
    assert_nothing_crashed(&standby);
    assert_nothing_crashed(&primary);
}
