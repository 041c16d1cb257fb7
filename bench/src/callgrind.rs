//! Counts instructions under callgrind. The server runs in single-user mode: one backend without other processes.
//!
//! Noise of the machine does not change the counts. Instructions of the kernel are not included.
//!
//! The server's clock stands still. Once a second, a backend checks for newer mmdb files. Under callgrind each session
//! takes longer, so with a running clock there would be far more checks for each session.

use std::fs::File;
use std::path::Path;
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
    let copy = cluster.files().join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(cluster.data_dir()).arg(&copy));
    let input = cluster.files().join("script");
    std::fs::write(&input, script).expect("the script can be written");
    let counts = cluster.files().join("callgrind.out");
    let installation = cluster.installation();
    let clock = Clock::stopped("callgrind");
    let stderr = run(installation
        .server_command("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(installation.bindir.join("postgres"))
        .args(["--single", "-D"])
        .arg(&copy)
        .args(settings)
        .arg(database)
        .env("LD_PRELOAD", clock::library())
        .env("COWRIE_ENRICH_TEST_CLOCK", clock.path())
        .stdin(File::open(&input).expect("the script can be read"))
        .current_dir(&copy));
    assert!(!stderr.contains("ERROR"), "{stderr}");
    if let Some(profile) = profile {
        std::fs::copy(&counts, profile).expect("the profile can be copied");
    }
    // ==123== Collected : 123456
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number);
    collected.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no count: {stderr}"))
}

/// Runs a program that must succeed. Returns its standard error.
fn run(command: &mut Command) -> String {
    let output = command.stdout(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {stderr}");
    stderr
}
