//! Runs that fail, runs at the same time, and sessions that no honeypot should store.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::place::{Place, figure, rows, section, text};

/// A directory of one test, with the path of a page in it.
struct Site {
    directory: PathBuf,
    page: PathBuf,
}

impl Site {
    fn new(name: &str) -> Site {
        let directory = std::env::temp_dir().join(format!("cowrie-report-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Site { page: directory.join("report.html"), directory }
    }

    fn path(&self) -> &str {
        self.page.to_str().unwrap()
    }

    #[track_caller]
    fn assert_holds_only(&self, page: &str) {
        assert_eq!(std::fs::read_to_string(&self.page).unwrap(), page);
        assert_eq!(std::fs::read_dir(&self.directory).unwrap().count(), 1, "no partial file is left");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_failure_keeps_the_old_page_and_is_reported() {
    let Some(mut place) = Place::new("report_failure") else { return };
    let site = Site::new("failure");
    let path = site.path();
    assert!(place.output(&["--output", path]).status.success());
    let old = std::fs::read_to_string(path).unwrap();
    place.client.batch_execute("SELECT cowrie_enrich.detach_session_table('sessions')").unwrap();
    for (arguments, message) in [
        (&["--output", path][..], "public.sessions is not an attached session table"),
        (&["--output", path, "--table", "nowhere"], "table \"nowhere\" does not exist"),
        (&["--since", "-009999-01-02T01:59:59Z"], "must not be before 1970-01-01"),
        (&["--days", "0"], "the number must be between 1 and 36500"),
        (&["--days", "1", "--since", "2025-01-01T00:00:00Z"], "cannot be combined"),
        (&["--since", "2025-01-02T00:00:00Z", "--until", "2025-01-01T00:00:00Z"], "must be earlier"),
    ] {
        let output = place.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(message), "{arguments:?}: {errors}");
    }
    site.assert_holds_only(&old);
}

#[test]
fn a_connection_that_ends_in_the_middle_leaves_the_old_page() {
    let Some(mut place) = Place::with_log("report_killed") else { return };
    let site = Site::new("killed");
    let path = site.path();
    assert!(place.output(&["--output", path]).status.success());
    let old = std::fs::read_to_string(path).unwrap();
    // A policy that ends the server process of the report while it reads the commands, after it has read the sessions.
    let role = place.role.clone();
    place
        .client
        .batch_execute(&format!(
            "ALTER TABLE input ENABLE ROW LEVEL SECURITY;
             CREATE POLICY ends ON input FOR SELECT TO {role} USING (pg_terminate_backend(pg_backend_pid()))"
        ))
        .unwrap();
    let output = place.output(&["--output", path]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("could not read the report") && errors.lines().count() == 1, "{errors}");
    assert!(errors.contains("terminating connection") || errors.contains("closed"), "{errors}");
    site.assert_holds_only(&old);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let Some(place) = Place::new("report_unwritable") else { return };
    let site = Site::new("unwritable");
    let nowhere = site.directory.join("nowhere/report.html");
    let pipe = site.directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Root may write everywhere but on a file system that is read-only, such as /proc.
    for path in [
        nowhere.to_str().unwrap(),
        "/proc/report.html",
        pipe.to_str().unwrap(),
        site.directory.to_str().unwrap(),
    ] {
        let output = place.output(&["--output", path]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(errors.starts_with(&format!("cowrie-report: could not write {path}: ")), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    assert_eq!(std::fs::read_dir(&site.directory).unwrap().count(), 1);
    assert!(!pipe.metadata().unwrap().is_file());
    let full = Command::new("sh")
        .args(["-c", "\"$@\" 2>&1 >/dev/full", "sh", env!("CARGO_BIN_EXE_cowrie-report"), "--dsn"])
        .arg(place.dsn(&place.role))
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1));
    let said = String::from_utf8_lossy(&full.stdout).into_owned();
    assert!(said.contains("could not write to standard output"), "{said}");
}

#[test]
fn runs_at_the_same_time_write_one_complete_page() {
    let Some(place) = Place::with_log("report_together") else { return };
    let site = Site::new("together");
    let run = || -> Child {
        Command::new(env!("CARGO_BIN_EXE_cowrie-report"))
            .args(["--dsn", &place.dsn(&place.role), "--output", site.path()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    };
    for mut child in [run(), run(), run(), run()] {
        assert!(child.wait().unwrap().success());
    }
    let page = std::fs::read_to_string(&site.page).unwrap();
    assert!(page.ends_with("</html>\n"));
    assert_eq!(figure(&page, "sessions"), figure(&place.report(&[]), "sessions"));
    site.assert_holds_only(&page);
}

#[test]
fn one_session_gives_a_page() {
    let Some(mut place) = Place::new("report_one") else { return };
    place
        .client
        .batch_execute(
            "INSERT INTO sessions (id, starttime, sensor, ip) VALUES ('a', '2025-05-01', 1, '8.8.8.8')",
        )
        .unwrap();
    let page = place.report(&[]);
    assert_eq!(
        (figure(&page, "sessions"), figure(&page, "addresses"), figure(&page, "countries")),
        (1, 1, 1)
    );
    assert!(section(&page, "timeline").contains("2025-05-01"));
}

#[test]
fn sessions_without_an_address_and_with_ipv6_addresses_give_a_page() {
    let Some(mut place) = Place::new("report_addresses") else { return };
    let page_of = |place: &mut Place, values: &str| {
        place
            .client
            .batch_execute(&format!(
                "TRUNCATE sessions CASCADE; INSERT INTO sessions (id, starttime, sensor, ip) VALUES {values}"
            ))
            .unwrap();
        place.report(&[])
    };
    let page = page_of(&mut place, "('a', '2025-05-01', 1, ''), ('b', '2025-05-02', 1, 'no address')");
    assert_eq!((figure(&page, "sessions"), figure(&page, "addresses"), figure(&page, "networks")), (2, 0, 0));
    assert!(text(&page).contains("without a valid address: 2"), "{}", text(&page));
    for (id, sentence) in
        [("map", "No session has a known country."), ("networks", "No session has a known network.")]
    {
        assert!(section(&page, id).contains(sentence) && rows(section(&page, id)).is_empty(), "{id}");
    }
    let page = page_of(
        &mut place,
        "('a', '2025-05-01', 1, '2001:4860::1'), ('b', '2025-05-01', 1, '2001:4860:0::1')",
    );
    assert_eq!((figure(&page, "sessions"), figure(&page, "addresses")), (2, 1));
}

#[test]
fn implausible_times_are_counted_apart() {
    let Some(mut place) = Place::new("report_times") else { return };
    place
        .client
        .batch_execute(
            "INSERT INTO sessions (id, starttime, sensor, ip) VALUES ('a', '2025-05-01', 1, '8.8.8.8'),
                 ('b', '1969-12-31 23:59:59', 1, '8.8.8.8'), ('c', '0044-03-15 BC', 1, '8.8.8.8'),
                 ('d', '2101-01-01', 1, '8.8.8.8'), ('e', '294276-12-31', 1, '8.8.8.8'),
                 ('f', 'infinity', 1, '8.8.8.8'), ('g', '-infinity', 1, '8.8.8.8')",
        )
        .unwrap();
    let page = place.report(&[]);
    assert_eq!(figure(&page, "sessions"), 7);
    assert!(text(&page).contains("without a plausible time: 6"), "{}", text(&page));
    assert_eq!(section(&page, "timeline").matches(" sessions, ").count(), 1);
    assert!(text(&page).contains("The newest session of this page began at 2025-05-01 00:00 UTC"));
    // The ends of the times that the program knows.
    for (since, until) in [
        ("1970-01-01T00:00:00Z", "9999-12-30T22:00:00Z"),
        ("2000-01-01T00:00:00Z", "2200-01-01T00:00:00Z"),
        ("2025-05-01T00:00:00Z", "2025-05-01T00:00:01Z"),
    ] {
        let page = place.report(&["--since", since, "--until", until]);
        assert_eq!(figure(&page, "sessions"), 1, "{since}");
    }
    assert!(rows(section(&page, "sensors")).iter().any(|row| row[1] == "7"));
}
