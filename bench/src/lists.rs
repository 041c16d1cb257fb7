//! Measures `lookup_ips()` for a list of addresses. Compares it with a query that gets the same data with a function
//! call for each value.

use std::time::Instant;

use server_tests::database::Database;

use crate::Effort;
use crate::addresses::{Addresses, lines};
use crate::report::{Aim, Report, median, short};

const LINES: usize = 10_000;

const WHOLE: &str =
    "SELECT count(*), max(r::text) FROM enrich.lookup_ips(ARRAY(SELECT host(ip) FROM public.list)) r";
const CALLS: &str = "
    SELECT count(*), max(r::text) FROM (
        SELECT l.ip, enrich.bogon_reason(l.ip), i.ip_types, enrich.ip_country(l.ip), enrich.ip_city(l.ip),
               m.document -> 'latitude', m.document -> 'longitude', COALESCE(i.current_asn, enrich.ip_asn(l.ip)),
               COALESCE(n.organization_name, enrich.ip_asn_org(l.ip)), n.asn_type, n.rir_registry, i.is_scanner,
               i.session_count, i.first_seen, i.last_seen
        FROM (SELECT enrich.session_address(host(ip)) AS ip FROM public.list) l
        CROSS JOIN LATERAL (SELECT enrich.maxmind_lookup(l.ip) OFFSET 0) m(document)
        LEFT JOIN LATERAL (SELECT * FROM enrich.ip_inventory i WHERE i.ip_address = l.ip OFFSET 0) i ON true
        LEFT JOIN enrich.asn_inventory n ON n.asn_number = i.current_asn) r";

pub fn measure(db: &mut Database<'_>, addresses: &Addresses, effort: &Effort, report: &mut Report) {
    eprintln!("lists: {LINES} lines, {} rounds", effort.rounds);
    let list = addresses.others(1_000, LINES);
    let mut session = db.another();
    session.run("CREATE TABLE list (ip inet NOT NULL)");
    session.copy("list", &lines(&list[..LINES / 2]));
    session.run("SELECT count(*) FROM enrich.enrich_ips(ARRAY(SELECT ip FROM list))");
    session.copy("list", &lines(&list[LINES / 2..]));
    session.run("VACUUM ANALYZE list, enrich.ip_inventory, enrich.asn_inventory");
    for statement in [WHOLE, CALLS] {
        session.run(statement);
    }
    let (mut whole, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (statement, times) in [(WHOLE, &mut whole), (CALLS, &mut calls)] {
            let started = Instant::now();
            let rows = session.one(statement);
            times.push(started.elapsed().as_secs_f64() * 1e3);
            assert!(rows.starts_with(&format!("{LINES}|")), "{rows}");
        }
    }
    report.line(
        "lookup_ips, half of the addresses known",
        format!("{LINES} lines in one call"),
        whole.clone(),
        " ms",
        Aim::AtMost(100.0),
        "each row as text".to_owned(),
    );
    report.ratio(
        "lookup_ips() / a call of a function for each value",
        format!("{} / {} ms", short(median(&whole)), short(median(&calls))),
        whole.iter().zip(&calls).map(|(whole, calls)| whole / calls).collect(),
        Aim::AtMost(1.0),
        "the same rows".to_owned(),
    );
}
