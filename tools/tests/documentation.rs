//! docs/load-logs.md and the alerts match `cowrie-load`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use cowrie_enrich_tools::follow::metrics;
use support::checkout;

fn page() -> String {
    fs::read_to_string(checkout().join("docs/load-logs.md")).unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cowrie-load")).args(arguments).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let declared: BTreeSet<String> = metrics::ALL
        .iter()
        .map(|metric| format!("| `{}` | {} | {} |", metric.name, metric.kind, metric.help))
        .map(|row| row.to_lowercase().replace(['.', '`'], ""))
        .collect();
    let documented: BTreeSet<String> = page()
        .lines()
        .filter(|line| line.starts_with("| `cowrie_load_"))
        .map(|row| row.to_lowercase().replace(['.', '`'], ""))
        .collect();
    assert_eq!(documented, declared);
}

#[test]
fn alerts_name_existing_metrics() {
    let rules = fs::read_to_string(checkout().join("monitoring/prometheus/alerts.yml")).unwrap();
    let names: BTreeSet<&str> = rules
        .lines()
        .filter(|line| line.trim_start().starts_with("expr:"))
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with("cowrie_load_"))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        assert!(metrics::ALL.iter().any(|metric| metric.name == name), "{name}");
    }
}

#[test]
fn options_on_the_page_are_options_of_the_program() {
    let page = page();
    let help = printed(&["--help"]);
    for option in [
        "--follow",
        "--state",
        "--metrics",
        "--idle",
        "--batch",
        "--from",
        "--print-grants",
        "--role",
        "--for",
        "--print-schema",
    ] {
        assert!(help.contains(&format!("{option} ")), "{option} is not in --help");
    }
    let named: BTreeSet<&str> = page
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .filter(|word| word.starts_with("--") && !word.starts_with("---"))
        .filter(|word| word.len() > 2)
        .collect();
    let others = ["--release", "--now"];
    for option in named.iter().filter(|option| !others.contains(option)) {
        assert!(help.contains(&format!("{option} ")), "{option} is not in --help");
    }
    assert!(named.len() > 6, "{named:?}");
}

#[test]
fn options_that_have_no_meaning_together_are_refused() {
    for (arguments, said) in [
        (
            &["--follow", "/tmp", "log"][..],
            "FILE can only be used without --follow, --print-grants and --print-schema",
        ),
        (&["--state", "/tmp", "log"], "--state can only be used with --follow"),
        (
            &["--follow", "/tmp", "--print-grants", "sessions"],
            "--follow can only be used without --print-grants and --print-schema",
        ),
        (
            &["--print-schema", "log"],
            "FILE can only be used without --follow, --print-grants and --print-schema",
        ),
        (&["--print-schema", "--role", "r"], "--role can only be used with --print-grants"),
        (&["--role", "r", "log"], "--role can only be used with --print-grants"),
        (&["--print-grants", "sessions", "--for", "me"], "must be follow, files or output_postgresql"),
        (&["--print-grants", "auth"], "Cowrie's table is called sessions"),
        (&["--follow", "/tmp"], "no directory for the position in the logs; give --state DIRECTORY"),
        (
            &["--dsn", "user=u", "--follow", "/nowhere", "--state", "/nowhere/state"],
            "could not use /nowhere/state",
        ),
    ] {
        let text = printed(arguments);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}
