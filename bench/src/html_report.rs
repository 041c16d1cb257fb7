//! Measures `cowrie-report` over a year of sessions, against one plain count of the same table.

use std::process::{Command, Stdio};
use std::time::Instant;

use server_tests::database::Database;
use server_tests::installation::workspace;

use crate::Effort;
use crate::history::TABLE;
use crate::report::{Aim, Report, median, short};

pub fn measure(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    let program = workspace().join("target/release/cowrie-report");
    let page = db.cluster.files().join("report.html");
    let count = format!("SELECT snapshot_country, count(*) FROM {TABLE} GROUP BY 1");
    let (mut seconds, mut ratios) = (Vec::new(), Vec::new());
    // One run is not measured, because it fills the caches.
    for round in 0..=effort.rounds {
        let started = Instant::now();
        db.rows(&count);
        let plain = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut command = Command::new(&program);
        db.cluster.introduce(&mut command);
        let status = command
            .args(["--dsn", &format!("dbname={}", db.name), "--table", TABLE, "--output"])
            .arg(&page)
            .stdin(Stdio::null())
            .status()
            .expect("bench/run builds cowrie-report");
        assert!(status.success(), "cowrie-report failed");
        let taken = started.elapsed().as_secs_f64();
        if round > 0 {
            seconds.push(taken);
            ratios.push(taken / plain);
        }
    }
    let bytes = std::fs::metadata(&page).map_or(0, |data| data.len());
    let medians = format!("{} s / {} s", short(median(&seconds)), short(median(&seconds) / median(&ratios)));
    report.line(
        "cowrie-report: the year",
        format!("{} kB", bytes / 1000),
        seconds,
        " s",
        Aim::AtMost(5.0),
        String::new(),
    );
    report.ratio("cowrie-report / count of sessions by country", medians, ratios, Aim::None, String::new());
}
