//! The systemd unit of cowrie-load: systemd accepts it, and its command works.

mod support;

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};

use support::{Database, Site, assert_systemd_accepts, checkout, line, wait_until};

fn unit() -> String {
    fs::read_to_string(checkout().join("tools/systemd/cowrie-load.service")).unwrap()
}

/// Returns the settings of the file for EnvironmentFile.
fn environment() -> HashMap<String, String> {
    fs::read_to_string(checkout().join("tools/examples/cowrie-load.default"))
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    let text = unit().replace("/usr/bin/cowrie-load", env!("CARGO_BIN_EXE_cowrie-load"));
    assert_systemd_accepts("unit", "cowrie-load.service", &[("cowrie-load.service", text)]);
}

#[test]
fn the_command_of_the_unit_stores_sessions() {
    let Some(mut database) = Database::new("unit") else {
        return;
    };
    let dsn = database.role("loader_unit", "follow");
    let site = Site::new("unit", &dsn);
    site.append(
        "cowrie.json",
        [line("a", 1, "session.connect", ""), line("a", 2, "session.closed", "")].concat(),
    );
    // What systemd would set.
    let mut variables = environment();
    let set: Vec<&str> = dsn.split_whitespace().collect();
    let part = |name: &str| {
        set.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap().to_owned()
    };
    for (variable, value) in [
        ("COWRIE_LOGS", site.root.join("logs").display().to_string()),
        ("RUNTIME_DIRECTORY", site.root.display().to_string()),
        ("STATE_DIRECTORY", site.root.join("state").display().to_string()),
        ("PGHOST", part("host")),
        ("PGUSER", part("user")),
        ("PGDATABASE", part("dbname")),
    ] {
        variables.insert(variable.to_owned(), value);
    }
    let unit = unit();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cowrie-load ")).unwrap();
    let arguments = command.split_whitespace().map(|argument| {
        let expanded = variables
            .iter()
            .fold(argument.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        assert!(!expanded.contains('$'), "{expanded}");
        expanded
    });
    let child = Command::new(env!("CARGO_BIN_EXE_cowrie-load"))
        .args(arguments)
        .envs(&variables)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _follower = support::Follower { child };
    wait_until(
        "the session is stored",
        || database.one("SELECT count(*)::text FROM sessions"),
        |count| count == "1",
    );
    wait_until(
        "its metrics say so",
        || fs::read_to_string(site.root.join("cowrie_load.prom")).unwrap_or_default(),
        |text| text.contains("\ncowrie_load_sessions_total 1\n"),
    );
    let asked: Vec<&str> = unit
        .lines()
        .filter(|line| line.starts_with("Restart=") || line.starts_with("StateDirectory="))
        .collect();
    assert_eq!(asked, ["Restart=on-failure", "StateDirectory=cowrie-load"]);
}
