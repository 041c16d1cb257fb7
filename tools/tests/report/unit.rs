//! The systemd units: systemd accepts them, and the command works.

use std::fs;
use std::process::{Command, Stdio};

use crate::place::{Place, figure};
use crate::support::checkout;

fn unit(name: &str) -> String {
    fs::read_to_string(checkout().join("tools/systemd").join(name)).unwrap()
}

/// Runs systemd-analyze with the units, whose program is the built one. Returns `None` if systemd is not installed.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let directory = checkout().join("target/tmp/unit-report");
    fs::create_dir_all(&directory).unwrap();
    let service = directory.join("cowrie-report.service");
    // This machine need not have the user.
    let text = unit("cowrie-report.service")
        .replace("/usr/bin/cowrie-report", env!("CARGO_BIN_EXE_cowrie-report"))
        .replace("User=cowrie_report", "User=daemon");
    fs::write(&service, text).unwrap();
    fs::write(directory.join("cowrie-report.timer"), unit("cowrie-report.timer")).unwrap();
    let output = Command::new("systemd-analyze").args(arguments).arg(&service).output().ok()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Some((output.status.success(), text.concat()))
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    let Some((is_good, said)) = analyze(&["verify", "--man=no"]) else {
        eprintln!("not tested: systemd-analyze is not installed");
        return;
    };
    assert!(is_good && !said.contains("cowrie-report.service:"), "{said}");
    let (is_good, said) = analyze(&["security", "--offline=yes", "--threshold=20", "--no-pager"]).unwrap();
    assert!(is_good, "{said}");
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
