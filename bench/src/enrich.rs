//! Measures the cost of the cascade for an address: for a new address, and for an address whose data are fresh.

use std::time::Instant;

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
    for round in 0..effort.rounds {
        let mut session = db.another();
        session.run("TRUNCATE fresh");
        let part = addresses.others(round as u64, ADDRESSES + ADDRESSES / 10);
        session.copy("fresh", &lines(&part[..ADDRESSES]));
        session.run("VACUUM ANALYZE fresh");
        session.run("CHECKPOINT");

        let started = Instant::now();
        let written = session
            .number("SELECT count(*) FROM enrich.enrich_ips((SELECT array_agg(ip) FROM public.fresh))");
        new.push(micros(started));
        assert_eq!(written, ADDRESSES as i64);

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
