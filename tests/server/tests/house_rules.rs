//! Rules for the sources that a machine can check.

use std::collections::BTreeSet;
use std::path::Path;

use cowrie_enrich_engine::metrics;
use server_tests::database;
use server_tests::installation::{files_below, workspace};

/// Fails if `is_stray` is true for a line of `src/` outside `src/pg/`.
#[track_caller]
fn assert_stays_in_src_pg(is_stray: impl Fn(&str) -> bool) {
    let mut strays = Vec::new();
    for file in files_below(&workspace().join("src"), "rs") {
        if file.starts_with(workspace().join("src/pg")) {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            if is_stray(line) {
                strays.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

#[test]
fn unsafe_code_stays_in_src_pg() {
    assert_stays_in_src_pg(|line| {
        let code = line.split("//").next().unwrap_or_default();
        // Without string literals.
        let code: String = code.split('"').step_by(2).collect();
        code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
    });
}

/// Types and functions of the server have safe wrappers in src/pg.
#[test]
fn nothing_outside_src_pg_names_the_server() {
    assert_stays_in_src_pg(|line| line.contains("pg_sys"));
}

/// Functions that the server calls without pgrx's guard. The reason is stated at each.
const UNGUARDED: [&str; 5] = ["on_access", "on_utility", "end_process", "on_termination", "check_text"];

/// A panic that unwinds into the server's frames ends the process and restarts the cluster. So a function that the
/// server calls has pgrx's guard, which turns a panic into an ERROR. A function without the guard only calls C
/// functions and guarded functions, or catches panics itself.
#[test]
fn what_the_server_calls_lets_no_panic_out() {
    let mut strays = Vec::new();
    let mut unguarded = BTreeSet::new();
    for file in files_below(&workspace().join("src"), "rs") {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((_, signature)) = line.split_once("extern \"C-unwind\" fn ") else { continue };
            // Skips types of functions, which have no name, and declarations of the server's functions, which have no
            // body.
            let Some((name, _)) = signature.split_once(['(', '<']).filter(|(name, _)| !name.is_empty())
            else {
                continue;
            };
            let attributes = lines[..at].iter().rev().take_while(|line| {
                let line = line.trim();
                line.starts_with("#[") || line.starts_with("///")
            });
            if attributes.into_iter().any(|line| line.contains("pg_guard]")) {
                continue;
            }
            unguarded.insert(name.to_owned());
            let body = lines[at..].iter().skip_while(|line| !line.ends_with('{')).skip(1);
            let body: Vec<&str> = body.take_while(|line| **line != "}").copied().collect();
            let catches = body.iter().any(|line| line.contains("catch_unwind("));
            // A call through a variable counts as a violation, because it can reach any function.
            let calls =
                |line: &&&str| line.contains(")(") || line.contains("unwrap()") || line.contains("expect(");
            strays
                .extend(body.iter().filter(calls).filter(|_| !catches).map(|line| format!("{name}: {line}")));
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
    assert_eq!(unguarded, UNGUARDED.map(str::to_owned).into());
}

/// An argument is evaluated even if the called function does not use it. If dropping the value has an effect, this
/// effect then happens too.
#[test]
fn values_that_are_dropped_with_an_effect_are_made_only_where_they_are_used() {
    let files: Vec<String> = ["src", "engine/src"]
        .iter()
        .flat_map(|folder| files_below(&workspace().join(folder), "rs"))
        .map(|file| read(&file))
        .collect();
    let types: BTreeSet<&str> = files
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once(" Drop for ").map(|(_, name)| name))
        .filter_map(|name| name.split(|c: char| !c.is_alphanumeric()).next())
        .collect();
    assert!(types.len() > 10 && types.contains("HeldLock"), "{types:?}");
    let mut eager = Vec::new();
    for line in files.iter().flat_map(|text| text.lines()) {
        for method in ["then_some(", "unwrap_or(", "map_or(", "or(Some(", "ok_or(", "insert(Some("] {
            for (_, argument) in line.match_indices(method).map(|(at, found)| line.split_at(at + found.len()))
            {
                let name =
                    argument.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let makes = argument[name.len()..].starts_with(['(', ' ', ':']) || name == "Self";
                if types.contains(name) && makes {
                    eager.push(line.trim());
                }
            }
        }
    }
    assert!(eager.is_empty(), "{}", eager.join("\n"));
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
        let name = file.strip_prefix(workspace()).expect("it is in the workspace").display().to_string();
        assert!(rust.contains(&name), "{name} is not used");
    }
}

/// The server reads the whole subquery of `NOT IN` for each row once the result exceeds the memory of a hash table.
#[test]
fn no_statement_excludes_rows_by_not_in_a_query() {
    for file in files_below(&workspace().join("sql"), "sql") {
        let code: Vec<String> =
            read(&file).lines().map(|line| line.split("--").next().unwrap_or_default().to_owned()).collect();
        let words = code.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!words.contains("NOT IN (SELECT"), "{}", file.display());
    }
}

/// A name can contain a line break. The text after the line break would be outside of the comment.
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
    let declared: BTreeSet<String> = metrics::declarations::ALL
        .iter()
        .map(|family| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = family.kind.name();
            let (prometheus, name, unit) = (family.prometheus, family.name, family.unit);
            format!("| `{prometheus}` | `{name}` | {kind} | {} | `{unit}` |", labels.join(", "))
        })
        .collect();
    // Compares all cells of a row except the last, which describes the metric.
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

/// scripts/build-extension concatenates all files, but cargo-pgrx only those that src/lib.rs lists.
#[test]
fn every_install_script_is_listed_for_cargo_pgrx_in_order() {
    let source = read(&workspace().join("src/lib.rs"));
    let listed: Vec<&str> = source
        .split("\"../sql/install/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap_or_default())
        .collect();
    let mut names: Vec<String> = files_below(&workspace().join("sql/install"), "sql")
        .iter()
        .map(|path| path.file_name().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(listed, names);
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

/// fuzz/ is a separate workspace, whose lock file cargo does not update together with the other one.
#[test]
fn the_lock_file_of_the_fuzz_targets_is_up_to_date() {
    let output = std::process::Command::new("cargo")
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(workspace().join("fuzz/Cargo.toml"))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Each index and trigger costs time in the transactions of users. ARCHITECTURE.md names the reader of each.
#[test]
fn every_index_and_trigger_of_the_tables_has_a_reason() {
    let architecture = read(&workspace().join("ARCHITECTURE.md"));
    let (_, section) = architecture
        .split_once("## Indexes and triggers of the tables")
        .expect("ARCHITECTURE.md has a section about indexes and triggers");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut lacking = Vec::new();
    let mut found = 0;
    for file in files_below(&workspace().join("sql/install"), "sql") {
        for line in read(&file).lines() {
            // A table may have a key.
            let Some(name) = ["CREATE INDEX ", "CREATE UNIQUE INDEX ", "CREATE TRIGGER ", "CREATE TABLE "]
                .into_iter()
                .find_map(|start| line.strip_prefix(start)?.split(' ').next())
            else {
                continue;
            };
            found += 1;
            if !section.contains(&format!("`{name}`")) {
                lacking.push(name.to_owned());
            }
        }
    }
    assert!(found > 20, "only {found} were found");
    assert!(lacking.is_empty(), "without a reason in ARCHITECTURE.md: {lacking:?}");
}

/// No index contains a column that a fold changes. Otherwise each update of a fold would write an entry in each index.
#[test]
fn no_index_contains_a_column_that_a_fold_changes() {
    const CHANGED: [&str; 6] =
        ["session_count", "total_session_count", "unique_ip_count", "first_seen", "last_seen", "updated_at"];
    for file in files_below(&workspace().join("sql/install"), "sql") {
        let text = read(&file);
        for statement in text.split(';').filter_map(|text| text.split_once("\nCREATE INDEX ")) {
            let (_, definition) = statement;
            if definition.contains(" ON ip_inventory ") || definition.contains(" ON asn_inventory ") {
                let column = CHANGED.into_iter().find(|column| definition.contains(column));
                assert_eq!(column, None, "{definition}");
            }
        }
    }
}
