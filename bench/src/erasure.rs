//! Measures `erase_address()` over a year of sessions that all have documents, against one plain scan of the same documents.

use std::time::Instant;

use server_tests::database::Database;

use crate::Effort;
use crate::history::TABLE;
use crate::report::{Aim, Report, median, short};

/// No document mentions this address, so only the search is measured.
const ADDRESS: &str = "198.51.100.7";

pub fn measure(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    // The trigger would restore the documents.
    db.run(&format!(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE {TABLE} s SET enrichment = p.document FROM population p WHERE p.ip = s.source_ip AND s.enrichment IS NULL;
         COMMIT"
    ));
    db.run(&format!("VACUUM (FREEZE, ANALYZE) {TABLE}"));
    let count =
        |table: &str| format!("SELECT count(*) FROM {table} WHERE enrichment::text LIKE '%{ADDRESS}%'");
    let scan = format!("SELECT ({}) + ({})", count(TABLE), count("enrich.ip_inventory"));
    let documents = db.number(&format!(
        "SELECT count(enrichment) + (SELECT count(*) FROM enrich.ip_inventory) FROM {TABLE}"
    ));
    let erase = format!("CALL enrich.erase_address('{ADDRESS}')");
    let (mut seconds, mut ratios) = (Vec::new(), Vec::new());
    // One run is not measured, because it fills the caches.
    for round in 0..=effort.rounds {
        let started = Instant::now();
        assert_eq!(db.one(&scan), "0");
        let plain = started.elapsed().as_secs_f64();
        let started = Instant::now();
        db.run(&erase);
        let taken = started.elapsed().as_secs_f64();
        if round > 0 {
            seconds.push(taken);
            ratios.push(taken / plain);
        }
    }
    let medians = format!("{} s / {} s", short(median(&seconds)), short(median(&seconds) / median(&ratios)));
    report.line(
        "erase_address: one address",
        format!("{documents} documents"),
        seconds,
        " s",
        Aim::None,
        String::new(),
    );
    report.ratio(
        "erase_address / count of documents by LIKE",
        medians,
        ratios,
        Aim::AtMost(3.0),
        String::new(),
    );
}
