//! Rules of the house that a machine can check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cowrie_enrich_engine::metrics;
use server_tests::database;
use server_tests::installation::workspace;

#[test]
fn unsafe_code_stays_in_src_pg() {
    let mut strays = Vec::new();
    for file in files_below(&workspace().join("src"), "rs") {
        if file.starts_with(workspace().join("src/pg")) {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // Without the texts in it.
            let code: String = code.split('"').step_by(2).collect();
            if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                strays.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

#[test]
fn the_engine_knows_nothing_of_postgresql() {
    let manifest = read(&workspace().join("engine/Cargo.toml"));
    for forbidden in ["pgrx", "postgres", "cowrie_enrich ="] {
        assert!(!manifest.contains(forbidden), "engine/Cargo.toml names {forbidden}");
    }
    let library = read(&workspace().join("engine/src/lib.rs"));
    assert!(library.contains("#![forbid(unsafe_code)]"), "the engine may contain unsafe code");
}

#[test]
fn statements_of_rust_are_files_and_every_file_is_a_statement() {
    let rust: String = files_below(&workspace().join("src/store"), "rs").iter().map(|f| read(f)).collect();
    for file in files_below(&workspace().join("sql/queries"), "sql") {
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        assert!(rust.contains(&format!("sql/queries/{name}")), "{name} is not used");
    }
}

/// A name may hold the end of a line, and what follows it would be no comment any more.
#[test]
fn comments_of_statements_name_nothing_that_is_put_in() {
    for file in files_below(&workspace().join("sql/queries"), "sql") {
        for line in read(&file).lines().filter_map(|line| line.split_once("--")) {
            assert!(
                !line.1.contains("@table@") && !line.1.contains("@extschema@"),
                "{}: {}",
                file.display(),
                line.1
            );
        }
    }
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let page = read(&workspace().join("docs/metrics.md"));
    let declared: BTreeSet<String> = metrics::families::ALL
        .iter()
        .map(|family| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = family.kind.name();
            let (prometheus, name, unit) = (family.prometheus, family.name, family.unit);
            format!("| `{prometheus}` | `{name}` | {kind} | {} | `{unit}` |", labels.join(", "))
        })
        .collect();
    // The cells before the meaning, of which every row has some.
    let documented: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let (row, meaning) = line
                .match_indices(" | ")
                .nth(4)
                .map(|(at, _)| line.split_at(at + 2))
                .unwrap_or_else(|| panic!("a row of too few cells: {line}"));
            assert!(meaning.len() > 10, "no meaning: {line}");
            row.to_owned()
        })
        .collect();
    let missing: Vec<_> = declared.difference(&documented).collect();
    let surplus: Vec<_> = documented.difference(&declared).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
}

#[test]
fn columns_that_rust_reads_by_position_are_where_it_reads_them() {
    let rust = read(&workspace().join("src/store/addresses.rs"));
    let mut db = database();
    let mut checked = 0;
    for line in rust.lines().filter_map(|line| line.strip_prefix("const ")) {
        let Some((name, number)) = line.trim_end_matches(';').split_once(": i16 = ") else { continue };
        let column = db.one(&format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'enrich.ip_inventory'::regclass AND attnum = {number}"
        ));
        assert_eq!(column, name.to_lowercase());
        checked += 1;
    }
    assert!(checked >= 4, "{checked} positions found");
}

#[test]
fn install_scripts_are_ascii_so_that_every_encoding_takes_them() {
    for file in files_below(&workspace().join("sql"), "sql") {
        assert!(read(&file).is_ascii(), "{} is not ASCII", file.display());
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("could not read {}: {e}", file.display()))
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("the directory can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
