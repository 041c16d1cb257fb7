//! Runs of `cowrie-export` that fail or run at the same time leave a complete file, and sessions that no honeypot should store give a
//! valid export.

use std::path::Path;
use std::process::Command;

use server_tests::Database;
use server_tests::cowrie_export::{attacked, errors, exported, has, program, scratch};
use server_tests::hosts::COWRIE;
use server_tests::installation::workspace;

/// Returns the names of the files in the directory of a file.
fn files_beside(file: &Path) -> Vec<String> {
    let directory = std::fs::read_dir(file.parent().expect("a directory")).expect("the directory is there");
    directory.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_failed_export_leaves_the_old_file() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let file = scratch(&db, "list");
    let path = file.to_str().expect("UTF-8");
    let write = |role: &str, arguments: &[&str]| {
        let arguments = [&["--format", "plain", "--output", path], arguments].concat();
        let output = program(&db, role, &arguments).output().expect("python3 runs");
        let left = files_beside(&file);
        assert_eq!(left.len(), 1, "a temporary file is left: {left:?}");
        (output.status.code(), errors(&output))
    };
    assert_eq!(write(&role, &[]), (Some(0), String::new()));
    let complete = std::fs::read_to_string(&file).expect("the file is there");
    for (arguments, code, said) in [
        (&["--table", "nowhere"][..], 1, "relation \"nowhere\" does not exist"),
        (&["--table", "auth"], 1, "is not an attached session table"),
        (&["--since", "yesterday or so"], 1, "invalid input syntax for type timestamp with time zone"),
        (&["--campaign", "s.nothing = 1"], 1, "does not exist"),
        (&["--now", "0044-03-15 BC"], 1, "--now must be a time between 1970 and 9998"),
        (&["--now", "infinity"], 1, "--now must be a time between 1970 and 9998"),
        (&["--lifetime", "1000000 years"], 1, "lifetime must be at most 1000 years"),
        (&["--campaign", "true; DROP TABLE sessions"], 1, ""),
        (&["--dsn", "host=/nowhere"], 1, "connection to server"),
        (&["--unit", "city"], 2, "invalid choice: 'city'"),
        (&["--format", "nft", "--unit", "asn"], 2, "an nft set cannot contain networks by ASN"),
        (&["--campaign", "true", "--unit", "asn"], 2, "--campaign goes with --unit address"),
        (&["--min-sessions", "0"], 2, "must be a number of at least 1"),
        (&["--nft-table", "a; flush ruleset"], 2, "must be a letter"),
    ] {
        let (status, text) = write(&role, arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{arguments:?}: {text}");
        assert_eq!(std::fs::read_to_string(&file).expect("the old file"), complete, "{arguments:?}");
    }
    // The disk is full after a part of the file.
    let full = Command::new("sh")
        .args(["-c", "ulimit -f 1; \"$@\"", "sh", "python3"])
        .arg(workspace().join("tools/cowrie-export"))
        .args(["--format", "geojson", "--output", path])
        .envs(program(&db, &role, &[]).get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .expect("sh runs");
    assert_eq!(full.status.code(), Some(1));
    assert!(errors(&full).contains("File too large"), "{}", errors(&full));
    assert_eq!(write(&role, &["--table", "nowhere"]).0, Some(1));
    assert_eq!(std::fs::read_to_string(&file).expect("the old file"), complete);
    // An address list that was complete when a reader of the pipe left is a failure as well.
    let output = Command::new("sh")
        .args(["-c", "\"$@\" 2>&1 >/dev/full", "sh", "python3"])
        .arg(workspace().join("tools/cowrie-export"))
        .args(["--format", "plain"])
        .envs(program(&db, &role, &[]).get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .expect("sh runs");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_missing_right_is_named_with_the_page_that_grants_it() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let refused = |db: &Database<'_>, role: &str, object: &str| {
        let output = program(db, role, &["--format", "plain"]).output().expect("python3 runs");
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{object}: {text}");
        assert!(output.stdout.is_empty() && text.lines().count() == 1, "{text}");
        assert!(text.contains(&format!("permission denied for {object}")), "{object}: {text}");
        assert!(text.contains("docs/analysis.md#rights"), "{object}: {text}");
    };
    let stranger = db.create_role("stranger");
    refused(&db, &stranger, "schema enrich");
    for (right, object) in [
        ("USAGE ON SCHEMA enrich", "schema enrich"),
        ("EXECUTE ON FUNCTION enrich.blocklist", "function blocklist"),
        ("SELECT ON sessions", "table sessions"),
        ("SELECT ON enrich.ip_inventory", "table ip_inventory"),
        ("SELECT ON enrich.asn_inventory", "table asn_inventory"),
        ("SELECT ON enrich.blocklist_exception", "table blocklist_exception"),
    ] {
        db.run(&format!("REVOKE {right} FROM {role}"));
        refused(&db, &role, object);
        db.run(&format!("GRANT {right} TO {role}"));
    }
    exported(&db, &role, &["--format", "plain"]);
}

#[test]
fn a_connection_that_ends_in_the_middle_leaves_the_old_file() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let file = scratch(&db, "list");
    let path = file.to_str().expect("UTF-8");
    exported(&db, &role, &["--format", "csv", "--output", path]);
    let complete = std::fs::read_to_string(&file).expect("the file is there");
    // A policy that ends the server process of the program when it reads the sessions.
    db.run(&format!(
        "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY ends ON sessions FOR SELECT TO {role} USING (pg_terminate_backend(pg_backend_pid()))"
    ));
    let output = program(&db, &role, &["--format", "csv", "--output", path]).output().expect("python3 runs");
    assert_eq!(output.status.code(), Some(1));
    // The driver has the message of the server, or only sees the end of the connection.
    assert!(errors(&output).contains("connection"), "{}", errors(&output));
    assert_eq!(errors(&output).lines().count(), 1, "{}", errors(&output));
    assert_eq!(std::fs::read_to_string(&file).expect("the old file"), complete);
    assert_eq!(files_beside(&file), ["list"]);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let nowhere = scratch(&db, "nowhere").join("list");
    let pipe = scratch(&db, "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    for path in [nowhere.to_str().expect("UTF-8"), "/proc/list", pipe.to_str().expect("UTF-8"), "/dev"] {
        let output =
            program(&db, &role, &["--format", "plain", "--output", path]).output().expect("python3 runs");
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {text}");
        assert!(text.starts_with("cowrie-export: ") && text.contains(path), "{path}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert!(!pipe.metadata().expect("a pipe").is_file());
}

#[test]
fn runs_at_the_same_time_write_one_complete_file() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let file = scratch(&db, "list");
    let path = file.to_str().expect("UTF-8");
    let runs: Vec<_> = (0..4)
        .map(|_| program(&db, &role, &["--format", "csv", "--output", path]).spawn().expect("python3 runs"))
        .collect();
    for mut run in runs {
        assert!(run.wait().expect("the program ends").success());
    }
    let expected = exported(&db, &role, &["--format", "csv"]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file is there"), expected);
    assert_eq!(files_beside(&file), ["list"]);
}

#[test]
fn odd_sessions_give_a_valid_export_in_every_format() {
    if !has("psycopg2") || !has("stix2") || !has("pymisp") {
        return;
    }
    let (mut db, role) = attacked();
    let list = |db: &Database<'_>| {
        for format in ["stix", "misp", "geojson", "csv", "nft"] {
            exported(db, &role, &["--format", format, "--now", "2024-05-02", "--since", "7 days"]);
        }
        exported(db, &role, &["--format", "plain"])
    };
    db.run("DELETE FROM sessions");
    assert_eq!(list(&db), "", "no session");
    db.run(&COWRIE.insert_at("2024-05-01", &[("one", Some("8.8.8.8"))]));
    assert_eq!(list(&db), "8.8.8.8\n", "one session");
    db.run("DELETE FROM sessions");
    db.run("INSERT INTO sessions (id, starttime, ip) VALUES ('a', '2024-05-01', ''), ('b', '2024-05-01', 'no address')");
    assert_eq!(list(&db), "", "no address");
    db.run(
        &COWRIE.insert_at("2024-05-01", &[("six", Some("2001:4860::1")), ("mapped", Some("::ffff:8.8.4.4"))]),
    );
    let found = list(&db);
    assert!(found.contains("2001:4860::1\n") && found.contains("8.8.4.4\n"), "{found}");
    db.run("DELETE FROM sessions");
    // Times that no format, or no language, can have. The target stays, because the session has an address.
    for (number, time) in
        ["1969-12-31 23:59:59", "0044-03-15 BC", "2101-01-01", "294276-12-31", "infinity", "-infinity"]
            .iter()
            .enumerate()
    {
        db.run(&format!(
            "INSERT INTO sessions (id, starttime, ip) VALUES ('t{number}', '{time}', '60.0.1.{number}')"
        ));
    }
    let found = list(&db);
    assert!(found.lines().all(|line| line.starts_with("60.0.1.")), "{found}");
    for format in ["stix", "misp", "geojson", "csv", "nft"] {
        let text = exported(&db, &role, &["--format", format, "--now", "2024-05-02"]);
        for impossible in ["infinity", "294276", "1969-", "BC"] {
            assert!(!text.contains(impossible), "{format}: {text}");
        }
    }
}
