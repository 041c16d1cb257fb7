//! Runs the program `cowrie-export` with the rights of an analyst. A test whose Python library is missing says that it was not run.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::documentation::grants;
use crate::hosts::COWRIE;
use crate::installation::workspace;
use crate::{Database, database};

/// Returns a database with attacked sessions, the newest of 2 May 2024, and a role with the rights of an analyst.
pub fn attacked() -> (Database<'static>, String) {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run("CREATE TABLE auth (id serial PRIMARY KEY, session char(32), password varchar(100))");
    let addresses = ["8.8.8.8", "139.59.0.1", "2001:4860::1", "60.0.0.1", "60.0.0.2", "10.0.0.1"];
    for (day, addresses) in [("2024-05-01", &addresses[..]), ("2024-05-02 06:00", &addresses[..1])] {
        let keys: Vec<String> = (0..addresses.len()).map(|n| format!("{}-{n}", &day[..10])).collect();
        let rows: Vec<_> = keys.iter().zip(addresses).map(|(key, ip)| (key.as_str(), Some(*ip))).collect();
        db.run(&COWRIE.insert_at(day, &rows));
    }
    db.run("INSERT INTO auth (session, password) SELECT id, 'x' FROM sessions WHERE ip IN ('8.8.8.8', '60.0.0.1', '10.0.0.1')");
    db.run("CALL fold_statistics()");
    let role = db.create_role("exporter");
    db.run(&grants("docs/analysis.md", "campaign_analyst", &role));
    (db, role)
}

/// Returns the directory in which `scripts/install-deps test` puts Python's libraries.
pub fn libraries() -> PathBuf {
    workspace().join("target/python")
}

/// Returns whether a library is in target/python. Reports otherwise that the test was not run.
pub fn has(library: &str) -> bool {
    let there = libraries().join(library).exists();
    if !there {
        eprintln!("not run: target/python has no {library}; scripts/install-deps test fetches it");
    }
    there
}

/// Returns a command that runs the program in a database, as a role.
pub fn program(db: &Database<'_>, role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    db.cluster.introduce(&mut command);
    command
        .arg(workspace().join("tools/cowrie-export"))
        .args(arguments)
        .env("PGUSER", role)
        .env("PGDATABASE", &db.name)
        .env("PYTHONPATH", libraries())
        // The schema of the extension is not in the path of an analyst.
        .env("PGOPTIONS", "-c search_path=public")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Returns the export on standard output.
#[track_caller]
pub fn exported(db: &Database<'_>, role: &str, arguments: &[&str]) -> String {
    let output = program(db, role, arguments).output().expect("python3 runs");
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8(output.stdout).expect("an export is UTF-8")
}

/// Returns the messages of a run.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns a path in a directory of one test.
pub fn scratch(db: &Database<'_>, name: &str) -> PathBuf {
    let directory = db.cluster.files().join(format!("export-{}", db.name));
    std::fs::create_dir_all(&directory).expect("a directory of this test's own");
    directory.join(name)
}
