//! Measures analysts' queries over a year of sessions. Each query runs a few times, with all data in memory, and its
//! plan is printed.

use std::time::Instant;

use server_tests::Cluster;
use server_tests::database::{Database, fresh_database};

use crate::Effort;
use crate::addresses::Addresses;
use crate::history::{self, FULL, TABLE};
use crate::report::{Aim, Report, median, short};

/// Stores the sessions of a year with their inventories, and creates the indexes.
pub fn prepare<'a>(cluster: &'a Cluster, addresses: &Addresses) -> Database<'a> {
    eprintln!("analysis: {} sessions", FULL.sessions);
    let started = Instant::now();
    let mut db = fresh_database(cluster);
    let population = FULL.population(addresses);
    history::store_sessions(&mut db, &FULL, &population, true);
    history::store_population(&mut db, &population);
    history::store_inventories(&mut db);
    db.run(&format!("SELECT enrich.attach_session_table('{TABLE}', 'source_ip', 'first_event_at')"));
    eprintln!("  stored in {:.0} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    db.run(&format!("SELECT enrich.index_session_table('{TABLE}')"));
    let seconds = started.elapsed().as_secs_f64();
    db.run(&format!("VACUUM (ANALYZE) {TABLE}"));
    let space = db.one(&format!(
        "SELECT pg_size_pretty(sum(pg_relation_size(i.indexrelid))), pg_size_pretty(pg_table_size('{TABLE}'))
         FROM pg_index i WHERE i.indrelid = '{TABLE}'::regclass AND i.indexrelid::regclass::text LIKE '%enrich\\_by\\_%'"
    ));
    eprintln!("  indexed in {seconds:.0} s; indexes|table: {space}");
    db
}

/// Measures the queries, except those by time.
pub fn measure(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    let country = db.one(&format!(
        "SELECT snapshot_country FROM {TABLE} WHERE snapshot_country IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
    ));
    let group = |filter: &str| {
        format!(
            "SELECT s.snapshot_asn, count(*) AS sessions FROM {TABLE} s WHERE {filter}
             GROUP BY 1 ORDER BY 2 DESC LIMIT 100"
        )
    };
    let of_country = format!("s.snapshot_country = '{country}'");
    let in_june = "s.first_event_at >= '2024-06-01' AND s.first_event_at < '2024-07-01'";
    let campaign =
        db.one(&format!("SELECT enrich.campaign_query('{TABLE}', $c${of_country} AND {in_june}$c$)"));
    let moved = |filter: &str| {
        format!(
            "SELECT s.snapshot_asn AS asn_then, i.current_asn AS asn_now, count(*) AS sessions FROM {TABLE} s
             JOIN enrich.ip_inventory i ON i.ip_address = enrich.session_address(s.source_ip)
             WHERE s.snapshot_asn <> i.current_asn AND {filter} GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 100"
        )
    };
    let networks = |limit: &str| format!("SELECT * FROM enrich.network_activity {limit}");
    let questions = [
        ("snapshots: one month by network", group(in_june), Aim::AtMost(100.0)),
        ("snapshots: the most active country by network", group(&of_country), Aim::AtMost(100.0)),
        ("campaign_networks: that country in one month", campaign, Aim::AtMost(100.0)),
        ("one join: sessions of one month, network then and now", moved(in_june), Aim::AtMost(500.0)),
        ("one join: all sessions, network then and now", moved("true"), Aim::AtMost(500.0)),
        ("network_activity: the first hundred", networks("LIMIT 100"), Aim::AtMost(50.0)),
        ("network_activity: all networks", networks(""), Aim::AtMost(50.0)),
        (
            "moved_addresses: the last week",
            "SELECT * FROM enrich.moved_addresses WHERE moved_at >= '2025-01-21' ORDER BY moved_at DESC"
                .to_owned(),
            Aim::None,
        ),
        ("moved_addresses: all", "SELECT * FROM enrich.moved_addresses".to_owned(), Aim::None),
        (
            "persistent_addresses: the first hundred",
            "SELECT * FROM enrich.persistent_addresses LIMIT 100".to_owned(),
            Aim::None,
        ),
    ];
    for (what, query, aim) in questions {
        ask(db, effort, report, what, &query, aim);
    }
}

/// Measures sessions by time, in a time zone with summer time.
pub fn measure_timelines(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    let timeline = |bucket: &str, by: &str, period: &str| {
        format!(
            "SELECT * FROM enrich.session_timeline('{TABLE}', '{bucket}', {by}, 'Europe/Berlin', condition => 'true'{period})"
        )
    };
    let of_30_days = ", since => '2024-10-10 00:00+02', until => '2024-11-09 00:00+01'";
    for (what, query, most) in [
        ("30 days by day", timeline("1 day", "NULL", of_30_days), 300.0),
        ("30 days by hour and network", timeline("1 hour", "'network'", of_30_days), 300.0),
        ("30 days by day and country", timeline("1 day", "'country'", of_30_days), 300.0),
        ("the year by day", timeline("1 day", "NULL", ""), 2000.0),
        ("the year by day and country", timeline("1 day", "'country'", ""), 2000.0),
        ("the year by month and network", timeline("1 month", "'network'", ""), 2000.0),
    ] {
        ask(db, effort, report, &format!("session_timeline: {what}"), &query, Aim::AtMost(most));
    }
}

fn ask(db: &mut Database<'_>, effort: &Effort, report: &mut Report, what: &str, query: &str, aim: Aim) {
    // One run is not measured, because it fills the caches.
    let rows = db.rows(query).len();
    let milliseconds: Vec<f64> = (0..effort.rounds)
        .map(|_| {
            let started = Instant::now();
            db.rows(query);
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let plan = db.rows(&format!("EXPLAIN (ANALYZE, BUFFERS) {query}"));
    println!("\n{what}: {} ms\n{}\n", short(median(&milliseconds)), plan.join("\n"));
    report.line(what, format!("{rows} rows"), milliseconds, " ms", aim, String::new());
}
