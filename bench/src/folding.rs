//! Measures folding while one open transaction holds 10,000 new addresses.

use std::time::Instant;

use server_tests::cymru::worker_pid;
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::{Options, Session, wait_until};

use crate::Effort;
use crate::report::{Aim, Report};

const NAPTIME: f64 = 2.0;
const BLOCKED: i64 = 10_000;
/// Number of pending counts of other addresses: twenty for each address.
const OTHERS: i64 = 40_000;

const BLOCKED_ADDRESSES: &str = "'60.0.0.0'::inet + n FROM generate_series(1, 10000) n";

fn insert_others(db: &mut Session) {
    db.run(&format!(
        "INSERT INTO s (ip) SELECT '23.1.0.0'::inet + n % 2000 FROM generate_series(1, {OTHERS}) n"
    ));
    // Stores one row for each session, as if each session had its own transaction. The INSERT above is one transaction,
    // so it has added its counts up in fewer rows.
    db.run(&format!(
        "INSERT INTO enrich.session_delta (ip_address, sessions)
         SELECT '23.1.0.0'::inet + n % 2000, (-1) ^ (n / 2000) FROM generate_series(1, {OTHERS}) n"
    ));
}

fn sum(db: &mut Session) -> i64 {
    db.number("SELECT COALESCE(sum(session_count), 0) FROM enrich.ip_inventory WHERE ip_address < '60.0.0.0'")
}

/// Measures the time from the last commit until all counts of the other addresses are folded.
pub fn measure(effort: &Effort, report: &mut Report) {
    let cluster = cluster_with_world(
        &Options::named("bench-folding")
            .with_worker()
            .conf(&format!("cowrie_enrich.worker_naptime = {NAPTIME}s"))
            .conf("cowrie_enrich.enabled_sources = 'maxmind'"),
    );
    let (mut naptimes, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let mut db = fresh_database(&cluster);
        db.run("CREATE TABLE s (ip inet)");
        db.run("SELECT enrich.attach_session_table('s', 'ip')");
        insert_others(&mut db);
        // Makes the launcher start the worker of a new database. The request is deleted at once, so no lookup is sent.
        db.run(
            "INSERT INTO enrich.enrichment_request (ip_address, provider) VALUES ('60.0.0.1', 'cymru');
             DELETE FROM enrich.enrichment_request",
        );
        worker_pid(&mut db);
        wait_until(
            "the first are folded",
            || db.number("SELECT count(*) FROM enrich.session_delta"),
            |pending| *pending == 0,
        );
        let alone = call(&mut db);

        let mut other = db.another();
        other.run("BEGIN");
        other.run(&format!("SELECT count(*) FROM enrich.enrich_ips(ARRAY(SELECT {BLOCKED_ADDRESSES}))"));
        db.run(&format!("INSERT INTO s (ip) SELECT {BLOCKED_ADDRESSES}"));
        insert_others(&mut db);
        let started = Instant::now();
        wait_until("all others are folded", || sum(&mut db), |sum| *sum == 3 * OTHERS);
        naptimes.push(started.elapsed().as_secs_f64() / NAPTIME);
        let beside = call(&mut db);
        calls.push(beside / alone);
        other.run("ROLLBACK");
        wait_until(
            "all is folded",
            || db.number("SELECT count(*) FROM enrich.session_delta"),
            |pending| *pending == 0,
        );
    }
    let what = format!("{OTHERS} counts and {BLOCKED} blocked counts");
    report.line(
        "naptimes until a fold during an open transaction",
        what.clone(),
        naptimes,
        "",
        Aim::AtMost(2.0),
        "from the last commit".to_owned(),
    );
    report.ratio(
        "CALL fold_statistics() during an open transaction, others",
        what,
        calls,
        Aim::None,
        "by the same without it".to_owned(),
    );
}

/// Returns the seconds that a call of `fold_statistics()` takes for the counts of the other addresses.
fn call(db: &mut Session) -> f64 {
    insert_others(db);
    db.run("SET client_min_messages = warning");
    let started = Instant::now();
    db.run("CALL enrich.fold_statistics()");
    started.elapsed().as_secs_f64()
}
