//! The systemd units: systemd accepts them, and the command works.

use std::fs;
use std::process::{Command, Stdio};

use crate::place::{Place, figure};
use crate::support::{assert_systemd_accepts, checkout};

fn unit(name: &str) -> String {
    fs::read_to_string(checkout().join("tools/systemd").join(name)).unwrap()
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    // This machine need not have the user.
    let service = unit("cowrie-report.service")
        .replace("/usr/bin/cowrie-report", env!("CARGO_BIN_EXE_cowrie-report"))
        .replace("User=cowrie_report", "User=daemon");
    assert_systemd_accepts(
        "unit-report",
        "cowrie-report.service",
        &[("cowrie-report.service", service), ("cowrie-report.timer", unit("cowrie-report.timer"))],
    );
}

#[test]
fn the_command_of_the_unit_writes_the_page() {
    let Some(place) = Place::with_log("report_unit") else { return };
    let directory = checkout().join("target/tmp/unit-report-state");
    fs::create_dir_all(&directory).unwrap();
    let settings = fs::read_to_string(checkout().join("tools/examples/cowrie-report.default")).unwrap();
    let options =
        settings.lines().find_map(|line| line.strip_prefix("REPORT_OPTIONS=")).unwrap().trim_matches('"');
    // The bundled log is older than 30 days.
    assert_eq!(options, "--table sessions --days 30");
    let unit = unit("cowrie-report.service");
    let command =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cowrie-report ")).unwrap();
    let command = command
        .replace("${STATE_DIRECTORY}", directory.to_str().unwrap())
        .replace("$REPORT_OPTIONS", &options.replace("--days 30", "--days 36500"));
    assert!(!command.contains('$'), "{command}");
    let status = Command::new(env!("CARGO_BIN_EXE_cowrie-report"))
        .args(command.split_whitespace())
        .args(["--dsn", &place.dsn(&place.role)])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let page = fs::read_to_string(directory.join("report.html")).unwrap();
    assert!(figure(&page, "sessions") > 600);
    // A failed run must be visible: the unit has no `Restart=`, and no prefix that hides a failure.
    assert!(!unit.contains("Restart=") && !unit.contains("ExecStart=-"));
}
