//! Measures the cost of the cascade for an address: for a new address, and for an address whose data are fresh.

use std::time::Instant;

use server_tests::Session;
use server_tests::database::Database;

use crate::Effort;
use crate::addresses::{Addresses, lines};
use crate::report::{Aim, Report};

const ADDRESSES: usize = 100_000;

pub fn measure(db: &mut Database<'_>, addresses: &Addresses, effort: &Effort, report: &mut Report) {
    eprintln!("enrich: {ADDRESSES} addresses, {} rounds", effort.rounds);
    db.run("CREATE TABLE fresh (ip inet NOT NULL)");
    let micros = |started: Instant| started.elapsed().as_secs_f64() * 1e6 / ADDRESSES as f64;
    let (mut new, mut known, mut one_new) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_hand, mut one_row) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let mut session = db.another();
        session.run("TRUNCATE fresh");
        let part = addresses.others(round as u64, ADDRESSES + ADDRESSES / 10);
        session.copy("fresh", &lines(&part[..ADDRESSES]));
        session.run("VACUUM ANALYZE fresh");
        session.run(
            "DROP TABLE IF EXISTS public.known_before;
             CREATE TABLE public.known_before AS SELECT asn_number FROM enrich.asn_inventory",
        );
        session.run("CHECKPOINT");

        let started = Instant::now();
        let written = session
            .number("SELECT count(*) FROM enrich.enrich_ips((SELECT array_agg(ip) FROM public.fresh))");
        new.push(micros(started));
        assert_eq!(written, ADDRESSES as i64);
        let (statements, addresses_only) = write_by_hand(&mut session);
        by_hand.push(new[round] / (statements * 1e6 / ADDRESSES as f64));
        one_row.push(addresses_only * 1e6 / ADDRESSES as f64);

        // Reads the addresses in the order of insertion, as a user's query would.
        let ask = "SELECT count(enrich.enrich_ip(ip)) FROM public.fresh";
        let scan = "SELECT count(ip) FROM public.fresh";
        session.run("SELECT enrich.enrich_ip(ip) FROM public.fresh LIMIT 1000");
        let started = Instant::now();
        session.run(scan);
        let scanned = micros(started);
        let started = Instant::now();
        session.run(ask);
        known.push(micros(started) - scanned);

        session.run("TRUNCATE fresh");
        session.copy("fresh", &lines(&part[ADDRESSES..]));
        let started = Instant::now();
        session.run(ask);
        one_new.push(micros(started) * 10.0);
    }
    let note = |what: &str| what.to_owned();
    report.line(
        "enrich_ips, new address",
        format!("{ADDRESSES} in one call"),
        new,
        " us",
        Aim::AtMost(20.0),
        note("each address committed with its network and history"),
    );
    report.ratio(
        "enrich_ips, new addresses / hand-written statements",
        format!("{ADDRESSES} in one call"),
        by_hand,
        Aim::AtMost(1.0),
        note("the statements copy the same rows from tables"),
    );
    report.line(
        "ip_inventory, one row of a hand-written INSERT",
        format!("{ADDRESSES} in one statement"),
        one_row,
        " us",
        Aim::AtMost(12.0),
        note("with its generated columns, indexes and foreign key"),
    );
    report.line(
        "enrich_ip, fresh address",
        format!("{ADDRESSES} in one statement"),
        known,
        " us",
        Aim::AtMost(5.0),
        note("net of the table scan"),
    );
    report.line(
        "enrich_ip, new address",
        format!("{} in one statement", ADDRESSES / 10),
        one_new,
        " us",
        Aim::None,
        note("one by one"),
    );
}

/// Deletes the new addresses and networks, and writes the same rows again by hand-written statements. Returns the seconds of all
/// statements together, and of the statement that writes `ip_inventory`.
fn write_by_hand(session: &mut Session) -> (f64, f64) {
    session.run(
        "DROP TABLE IF EXISTS public.kept_networks, public.kept_addresses, public.kept_history, public.kept_deltas;
         CREATE TABLE public.kept_networks AS
             SELECT a.* FROM enrich.asn_inventory a
             WHERE NOT EXISTS (SELECT FROM public.known_before b WHERE b.asn_number = a.asn_number) ORDER BY a.asn_number;
         CREATE TABLE public.kept_addresses AS
             SELECT i.* FROM enrich.ip_inventory i JOIN public.fresh f ON f.ip = i.ip_address ORDER BY i.ip_address;
         CREATE TABLE public.kept_history AS
             SELECT h.* FROM enrich.ip_asn_history h JOIN public.fresh f ON f.ip = h.ip_address ORDER BY h.ip_address;
         CREATE TABLE public.kept_deltas AS
             SELECT current_asn, count(*) AS addresses FROM public.kept_addresses WHERE current_asn IS NOT NULL GROUP BY 1;
         DELETE FROM enrich.ip_asn_history h USING public.fresh f WHERE h.ip_address = f.ip;
         DELETE FROM enrich.ip_inventory i USING public.fresh f WHERE i.ip_address = f.ip;
         DELETE FROM enrich.asn_inventory a USING public.kept_networks k WHERE a.asn_number = k.asn_number",
    );
    for table in ["asn_inventory", "ip_inventory", "ip_asn_history"].map(|table| format!("enrich.{table}")) {
        session.run(&format!("VACUUM ANALYZE {table}"));
    }
    session.run("CHECKPOINT");
    let began = Instant::now();
    session.run("BEGIN");
    session.run("INSERT INTO enrich.asn_inventory SELECT * FROM public.kept_networks");
    let started = Instant::now();
    session.run(
        "INSERT INTO enrich.ip_inventory (
             ip_address, current_asn, asn_last_verified, first_seen, last_seen, session_count,
             enrichment, enrichment_updated_at, enrichment_version)
         SELECT ip_address, current_asn, asn_last_verified, first_seen, last_seen, session_count,
                enrichment, enrichment_updated_at, enrichment_version
         FROM public.kept_addresses",
    );
    let addresses_only = started.elapsed().as_secs_f64();
    session.run(
        "INSERT INTO enrich.ip_asn_history SELECT * FROM public.kept_history;
         INSERT INTO enrich.network_delta (asn_number, addresses, sessions)
             SELECT current_asn, addresses, 0 FROM public.kept_deltas",
    );
    session.run("COMMIT");
    (began.elapsed().as_secs_f64(), addresses_only)
}
