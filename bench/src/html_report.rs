//! Measures `cowrie-report` over a year of sessions, against one plain count of the same table. Then adds a login to each session,
//! and measures the report with and without memory for counting the values of logins.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use server_tests::database::Database;
use server_tests::installation::workspace;

use crate::Effort;
use crate::history::TABLE;
use crate::report::{Aim, Report, median, short};

/// Cowrie's table of logins: one for each session, and about 200 thousand passwords. A few passwords and user names are in most
/// logins.
const LOGINS: &str = "
    ALTER TABLE session_summaries RENAME COLUMN session_id TO id;
    CREATE TABLE auth (
        id serial PRIMARY KEY,
        session varchar(64) NOT NULL,
        success boolean NOT NULL,
        username varchar(100) NOT NULL,
        password varchar(100) NOT NULL,
        timestamp timestamp NOT NULL
    );
    SELECT setseed(0.5);
    INSERT INTO auth (session, success, username, password, timestamp)
        SELECT id, random() < 0.1, 'user' || floor(exp(random() * ln(20000))), 'password' || floor(exp(random() * ln(350000))),
               timezone('UTC', first_event_at)
        FROM session_summaries";

pub fn measure(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    let page = db.cluster.files().join("report.html");
    let count = format!("SELECT snapshot_country, count(*) FROM {TABLE} GROUP BY 1");
    let (mut seconds, mut ratios) = (Vec::new(), Vec::new());
    // One run is not measured, because it fills the caches.
    for round in 0..=effort.rounds {
        let started = Instant::now();
        db.rows(&count);
        let plain = started.elapsed().as_secs_f64();
        let taken = seconds_of_report(db, &page, &[]);
        if round > 0 {
            seconds.push(taken);
            ratios.push(taken / plain);
        }
    }
    let medians = format!("{} s / {} s", short(median(&seconds)), short(median(&seconds) / median(&ratios)));
    report.line("cowrie-report: the year", size(&page), seconds, " s", Aim::AtMost(5.0), String::new());
    report.ratio("cowrie-report / count of sessions by country", medians, ratios, Aim::None, String::new());
    measure_logins(db, effort, report, &page);
}

fn measure_logins(db: &mut Database<'_>, effort: &Effort, report: &mut Report, page: &Path) {
    db.run(LOGINS);
    db.run("VACUUM (ANALYZE) auth");
    let passwords = db.one("SELECT count(DISTINCT password) FROM auth");
    let (mut in_memory, mut on_server, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=effort.rounds {
        let of_memory = seconds_of_report(db, page, &[]);
        let of_server = seconds_of_report(db, page, &["--memory", "0"]);
        if round > 0 {
            in_memory.push(of_memory);
            on_server.push(of_server);
            ratios.push(of_server / of_memory);
        }
    }
    let medians = format!("{} s / {} s", short(median(&on_server)), short(median(&in_memory)));
    let note = format!("{passwords} passwords");
    report.line(
        "cowrie-report: the year with logins",
        size(page),
        in_memory,
        " s",
        Aim::AtMost(5.0),
        note.clone(),
    );
    report.ratio("cowrie-report: logins counted on the server / in memory", medians, ratios, Aim::None, note);
}

fn seconds_of_report(db: &Database<'_>, page: &Path, options: &[&str]) -> f64 {
    let started = Instant::now();
    let mut command = Command::new(workspace().join("target/release/cowrie-report"));
    db.cluster.introduce(&mut command);
    let status = command
        .args(["--dsn", &format!("dbname={}", db.name), "--table", TABLE, "--output"])
        .arg(page)
        .args(options)
        .stdin(Stdio::null())
        .status()
        .expect("bench/run builds cowrie-report");
    assert!(status.success(), "cowrie-report failed");
    started.elapsed().as_secs_f64()
}

fn size(page: &Path) -> String {
    let bytes = std::fs::metadata(page).map_or(0, |data| data.len());
    format!("{} kB", bytes / 1000)
}
