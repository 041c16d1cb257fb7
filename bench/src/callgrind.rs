//! Counts instructions under callgrind. The server runs in single-user mode: one backend without other processes.
//!
//! Noise of the machine does not change the counts. Instructions of the kernel are not included.
//!
//! The server's clock stands still. Once a second, a backend checks for newer mmdb files. Under callgrind each session
//! takes longer, so with a running clock there would be far more checks for each session.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use server_tests::Cluster;
use server_tests::clock::{self, Clock};
use server_tests::database::fresh_database;
use server_tests::hosts::COWRIE;
use server_tests::world::crowd_member;

/// A few rounds are enough, because counts hardly differ from round to round.
pub const MOST_ROUNDS: usize = 3;

/// Addresses that the inventory of a prepared database knows.
pub const KNOWN: u64 = 2_560;

/// Makes a database with an attached table without sessions, and an inventory of the known addresses. Returns its name.
pub fn prepared_database(cluster: &Cluster) -> String {
    let mut db = fresh_database(cluster);
    COWRIE.create_attached(&mut db);
    let addresses: Vec<String> = (0..KNOWN).map(crowd_member).collect();
    db.run(&format!("SELECT count(*) FROM enrich_ips('{{{}}}')", addresses.join(",")));
    db.run("CALL fold_statistics()");
    db.run("VACUUM ANALYZE");
    db.name.clone()
}

pub fn is_installed() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// Returns the number of instructions that a backend executes from its start to its end. Each line of `script` is a
/// statement, and each statement is a transaction. The backend works on a copy of the data directory of a stopped
/// cluster.
///
/// `settings` are command-line arguments of the server. The file `profile`, if any, receives callgrind's counts by function.
pub fn instructions(
    cluster: &Cluster,
    database: &str,
    settings: &[&str],
    script: &str,
    profile: Option<&Path>,
) -> f64 {
    let counts = cluster.files().join("callgrind.out");
    let clock = Clock::stopped("callgrind");
    let mut valgrind = cluster.installation().server_command("valgrind");
    valgrind
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(cluster.installation().bindir.join("postgres"))
        .env("LD_PRELOAD", clock::library())
        .env("COWRIE_ENRICH_TEST_CLOCK", clock.path());
    let (_, stderr) = single_user(&mut valgrind, cluster, database, settings, script);
    if let Some(profile) = profile {
        std::fs::copy(&counts, profile).expect("the profile can be copied");
    }
    // ==123== Collected : 123456
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number);
    collected.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no count: {stderr}"))
}

/// Returns the position in the write-ahead log after a backend has run the script and the server has stopped. The arguments are
/// those of [`instructions`].
pub fn wal_position(cluster: &Cluster, database: &str, settings: &[&str], script: &str) -> f64 {
    let postgres = cluster.installation().bindir.join("postgres");
    let mut server = cluster.installation().server_command(postgres);
    let (copy, _) = single_user(&mut server, cluster, database, settings, script);
    let output = cluster
        .installation()
        .client_program("pg_controldata")
        .arg(&copy)
        .output()
        .expect("pg_controldata runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Latest checkpoint location:           0/2A000028
    let position = text
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint location:"))
        .and_then(|position| position.trim().split_once('/'))
        .unwrap_or_else(|| panic!("no position: {text}"));
    let [upper, lower] =
        [position.0, position.1].map(|hex| u64::from_str_radix(hex, 16).expect("a hexadecimal number"));
    ((upper << 32) + lower) as f64
}

/// Runs a script in single-user mode, on a copy of the data directory of a stopped cluster. Returns the copy and the standard error.
fn single_user(
    server: &mut Command,
    cluster: &Cluster,
    database: &str,
    settings: &[&str],
    script: &str,
) -> (PathBuf, String) {
    let copy = cluster.files().join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(cluster.data_dir()).arg(&copy));
    let input = cluster.files().join("script");
    std::fs::write(&input, script).expect("the script can be written");
    let stderr = run(server
        .args(["--single", "-D"])
        .arg(&copy)
        .args(settings)
        .arg(database)
        .stdin(File::open(&input).expect("the script can be read"))
        .current_dir(&copy));
    assert!(!stderr.contains("ERROR"), "{stderr}");
    (copy, stderr)
}

/// Runs a program that must succeed. Returns its standard error.
fn run(command: &mut Command) -> String {
    let output = command.stdout(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {stderr}");
    stderr
}
