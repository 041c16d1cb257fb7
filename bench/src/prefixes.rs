//! Measures `prefix_activity()` and `blocklist()` over a year of sessions, compared with statements that a user would
//! write by hand.
//! The statements by hand return the same numbers of sessions and addresses. They do not implement the other rules of
//! the functions: the longest announced prefix of another address, prefixes around bogons, and lists of benign
//! scanners.

use std::time::Instant;

use server_tests::database::Database;

use crate::Effort;
use crate::history::TABLE;
use crate::report::{Aim, Report, median, short};

const MONTH: &str = "2024-11-01 00:00+00";

/// Sessions by address, with the documents about the addresses.
fn by_address(since: &str) -> String {
    format!(
        "(SELECT source_ip, count(*) AS sessions, min(first_event_at) AS first_seen, max(first_event_at) AS last_seen
          FROM {TABLE} WHERE first_event_at >= {since} GROUP BY source_ip) s
         LEFT JOIN enrich.ip_inventory i ON i.ip_address = s.source_ip"
    )
}

/// The prefix of an address, as Team Cymru named it.
const PREFIX: &str =
    "COALESCE((i.enrichment #>> '{cymru,prefix}')::cidr, network(set_masklen(s.source_ip, 24)))";

fn prefixes_by_hand(since: &str) -> String {
    format!(
        "SELECT p.prefix, p.asn, n.organization_name, p.sessions, p.addresses, p.density, p.first_seen, p.last_seen
         FROM (SELECT {PREFIX} AS prefix, mode() WITHIN GROUP (ORDER BY i.current_asn) AS asn, sum(s.sessions) AS sessions,
                      count(*) AS addresses, count(*) / 2.0 ^ (32 - masklen({PREFIX})) AS density,
                      min(s.first_seen) AS first_seen, max(s.last_seen) AS last_seen
               FROM {} GROUP BY {PREFIX}) p
         LEFT JOIN enrich.asn_inventory n ON n.asn_number = p.asn
         ORDER BY p.sessions DESC, p.prefix",
        by_address(since)
    )
}

/// The condition under which an address may be blocked.
const BLOCKED: &str = "NOT enrich.is_bogon(s.source_ip)
    AND COALESCE(i.enrichment #>> '{greynoise,riot}', '') <> 'true'
    AND COALESCE(i.enrichment #>> '{greynoise,classification}', '') <> 'benign'
    AND NOT EXISTS (SELECT FROM enrich.blocklist_exception e WHERE e.prefix >>= s.source_ip)
    AND NOT EXISTS (SELECT FROM enrich.blocklist_exception e WHERE e.asn_number = i.current_asn)";

fn addresses_by_hand(since: &str) -> String {
    format!(
        "SELECT host(s.source_ip), s.sessions, s.first_seen, s.last_seen, s.last_seen + interval '30 days'
         FROM {} WHERE {BLOCKED} ORDER BY family(s.source_ip), s.source_ip",
        by_address(since)
    )
}

fn dense_prefixes_by_hand(since: &str) -> String {
    format!(
        "WITH blocked AS MATERIALIZED (
             SELECT s.source_ip, {PREFIX} AS prefix, s.sessions, s.first_seen, s.last_seen FROM {} WHERE {BLOCKED}
         ), dense AS MATERIALIZED (
             SELECT prefix, sum(sessions) AS sessions, min(first_seen) AS first_seen, max(last_seen) AS last_seen
             FROM blocked GROUP BY prefix HAVING count(*) >= 0.25 * 2.0 ^ (32 - masklen(prefix))
         )
         SELECT prefix::text, sessions, first_seen, last_seen FROM dense
         UNION ALL
         SELECT host(source_ip), sessions, first_seen, last_seen FROM blocked
         WHERE prefix NOT IN (SELECT prefix FROM dense)",
        by_address(since)
    )
}

pub fn measure(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    // Adds exceptions, because the server could skip the check for exceptions if there were none.
    db.run(
        "INSERT INTO enrich.blocklist_exception (prefix) SELECT network(set_masklen('198.18.0.0'::inet + 256 * n, 24))
             FROM generate_series(0, 99) n;
         ANALYZE enrich.blocklist_exception",
    );
    for (period, since) in
        [("30 days", format!("timestamptz '{MONTH}'")), ("the year", "'-infinity'".to_owned())]
    {
        let argument = if period == "30 days" { since.as_str() } else { "NULL" };
        for (what, call, by_hand) in [
            (
                "prefix_activity",
                format!("SELECT * FROM enrich.prefix_activity('{TABLE}', {argument})"),
                prefixes_by_hand(&since),
            ),
            (
                "blocklist of addresses",
                format!("SELECT * FROM enrich.blocklist('{TABLE}', {argument})"),
                addresses_by_hand(&since),
            ),
            (
                "blocklist of prefixes",
                format!("SELECT * FROM enrich.blocklist('{TABLE}', {argument}, unit => 'prefix')"),
                dense_prefixes_by_hand(&since),
            ),
        ] {
            compare(db, effort, report, &format!("{what}: {period}"), [&call, &by_hand]);
        }
    }
    db.run("TRUNCATE enrich.blocklist_exception");
}

/// Runs the function and the statement by hand alternately.
fn compare(
    db: &mut Database<'_>,
    effort: &Effort,
    report: &mut Report,
    what: &str,
    [call, by_hand]: [&str; 2],
) {
    // One run of each is not measured, because it fills the caches.
    let [rows, same] = [call, by_hand].map(|query| db.rows(query).len());
    assert_eq!(rows, same, "{what}: the statement by hand returns another number of rows");
    let (mut calls, mut hands) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (query, times) in [(call, &mut calls), (by_hand, &mut hands)] {
            let started = Instant::now();
            db.rows(query);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    report.line(what, format!("{rows} rows"), calls.clone(), " ms", Aim::None, String::new());
    report.ratio(
        &format!("{what} / by hand"),
        format!("{} / {} ms", short(median(&calls)), short(median(&hands))),
        calls.iter().zip(&hands).map(|(call, hand)| call / hand).collect(),
        Aim::None,
        "the same number of rows".to_owned(),
    );
}
