//! Runs PostgreSQL's pg_regress on `tests/pg_regress`: one behaviour a file, with output that a person can check.
//! `REGRESS` names the files to run, without `.sql`; otherwise all run.
//!
//! After an intended change: `UPDATE_EXPECTED=1 cargo test -p server_tests --test regress` writes the actual output to
//! `expected/`. Read the difference before you commit it.

use std::path::{Path, PathBuf};
use std::process::Command;

use server_tests::cluster::SUPERUSER;
use server_tests::installation::{installation, workspace};
use server_tests::{database, shared};

#[test]
fn output_equals_what_is_expected() {
    let directory = workspace().join("tests/pg_regress");
    let wanted = std::env::var("REGRESS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let mut names = tests_below(&directory.join("sql"));
    for name in &wanted {
        assert!(names.iter().any(|known| known == name), "there is no {name}.sql; there are {names:?}");
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(&name.as_str()));
    assert!(!names.is_empty(), "there are no tests");
    let output = shared().files().join("regress");
    std::fs::create_dir_all(&output).expect("the output directory can be made");
    let program = pg_regress();
    let mut different = Vec::new();
    for name in &names {
        // One database for each file, so that no file depends on another.
        let db = database();
        shared()
            .session(SUPERUSER)
            .run(&format!("ALTER DATABASE \"{}\" SET search_path = public, enrich", db.name));
        let mut command = Command::new(&program);
        shared().introduce(&mut command);
        let result = command
            .arg("--use-existing")
            .arg(format!("--bindir={}", installation().bindir.display()))
            .arg(format!("--inputdir={}", directory.display()))
            .arg(format!("--outputdir={}", output.display()))
            .arg(format!("--dbname={}", db.name))
            .arg(format!("--host={}", shared().socket_dir().display()))
            .arg("--port=5432")
            .arg(format!("--user={SUPERUSER}"))
            .arg(name)
            .output()
            .unwrap_or_else(|e| panic!("could not run {}: {e}", program.display()));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            let from = output.join("results").join(format!("{name}.out"));
            let to = directory.join("expected").join(format!("{name}.out"));
            std::fs::copy(&from, &to).expect("the expected output can be written");
        } else if !result.status.success() {
            let diffs = std::fs::read_to_string(output.join("regression.diffs")).unwrap_or_else(|_| {
                String::from_utf8_lossy(&result.stdout).into_owned()
                    + &String::from_utf8_lossy(&result.stderr)
            });
            different.push(diffs);
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Returns the program pg_regress. Any version of PostgreSQL will do, because pg_regress only runs psql and compares.
/// The pg_regress in the Python package crashes.
fn pg_regress() -> PathBuf {
    const BELOW: &str = "pgxs/src/test/regress/pg_regress";
    let installed = (15..=18).map(|major| Path::new("/usr/lib/postgresql").join(format!("{major}/lib")));
    std::iter::once(installation().pkglibdir.clone())
        .chain(installed)
        .map(|directory| directory.join(BELOW))
        .find(|program| {
            Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
        })
        .expect("a pg_regress that runs comes with PostgreSQL's headers")
}

fn tests_below(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap_or_else(|e| panic!("could not read {}: {e}", directory.display()))
        .map(|entry| PathBuf::from(entry.expect("the directory can be read").file_name()))
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .map(|path| path.with_extension("").display().to_string())
        .collect();
    names.sort();
    names
}
