//! `cargo pgrx package` produces the same files as `scripts/build-extension`, for users who know pgrx and not this
//! project.
//!
//! Installs cargo-pgrx below target/tools, which takes two minutes once. No other test needs it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use server_tests::installation::{files_below, named_major, named_pg_config, script, workspace};

#[test]
fn cargo_pgrx_package_gives_the_files_of_build_extension() {
    run("scripts/install-deps", &["cargo-pgrx"]);
    let config = named_pg_config();
    let config = config.to_str().expect("a path in UTF-8");
    run("scripts/build-extension", &[config]);
    run("scripts/build-extension", &[config, "cargo-pgrx"]);

    let stages = workspace().join("target/stage");
    let ours = files(&stages.join(format!("pg{}", named_major())));
    let theirs = files(&stages.join(format!("cargo-pgrx-pg{}", named_major())));
    assert_eq!(names(&ours), names(&theirs));
    assert!(ours.contains_key("cowrie_enrich.so"), "{:?}", names(&ours));
    for (name, bytes) in &ours {
        if name.ends_with(".sql") {
            let (ours, theirs) = (code(bytes), code(&theirs[name]));
            let different = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            assert_eq!(different, None, "{name}");
            assert_eq!(ours.len(), theirs.len(), "lines of {name}");
            assert!(ours.len() > 1000, "{name} has {} lines", ours.len());
        } else {
            assert!(*bytes == theirs[name], "{name} differs");
        }
    }
}

/// Runs a script of this checkout in the environment in which the extension under test was built.
fn run(name: &str, arguments: &[&str]) {
    let output =
        script(&workspace(), name).args(arguments).env("QUIET", "1").output().expect("the script runs");
    assert!(
        output.status.success(),
        "{name} {arguments:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns the files of a stage by their names. `cargo pgrx package` puts them below the directories of PostgreSQL.
fn files(stage: &Path) -> BTreeMap<String, Vec<u8>> {
    ["so", "control", "sql"]
        .iter()
        .flat_map(|extension| files_below(stage, extension))
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read(path).expect("the file can be read"))
        })
        .collect()
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&String> {
    files.keys().collect()
}

/// Returns the lines of an SQL script without blank lines and comments. pgrx adds comments with the source of a
/// statement.
fn code(script: &[u8]) -> Vec<String> {
    let script = std::str::from_utf8(script).expect("scripts are ASCII");
    let mut lines = Vec::new();
    let mut in_comment = false;
    for line in script.lines().map(str::trim_end) {
        in_comment |= line.starts_with("/*");
        if !in_comment && !line.is_empty() && !line.trim_start().starts_with("--") {
            lines.push(line.to_owned());
        }
        in_comment &= !line.ends_with("*/");
    }
    lines
}
