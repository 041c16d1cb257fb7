//! Measures the transactions per second of clients that run one script.

use std::path::Path;

use server_tests::database::Database;

pub struct Run {
    pub tps: f64,
    pub failed: u64,
}

pub fn run(db: &Database<'_>, script: &Path, clients: u32, seconds: u64) -> Run {
    let output = db
        .cluster
        .program("pgbench")
        .args(["-n", "--max-tries=1", "-j", "2", "-f"])
        .arg(script)
        .args(["-c", &clients.to_string(), "-T", &seconds.to_string()])
        .arg(&db.name)
        .output()
        .expect("pgbench runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "pgbench with {}: {text}{}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let after = |start: &str| -> Option<f64> {
        let line = text.lines().find(|l| l.starts_with(start))?;
        line[start.len()..].split_whitespace().next()?.parse().ok()
    };
    Run {
        tps: after("tps = ").expect("pgbench prints its tps"),
        failed: after("number of failed transactions: ").unwrap_or(0.0) as u64,
    }
}
