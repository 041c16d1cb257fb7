//! `demo-log`: writes the demo's log to standard output.
//!
//! `cargo run -p cowrie_enrich_tools --bin demo-log demo/networks-before.tsv | gzip -9n >demo/cowrie.json.gz`

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use cowrie_enrich_tools::{networks, synthetic};

/// The seed of the log in the repository. Another number would work as well.
const SEED: u64 = 2025;

fn run() -> Result<(), Box<dyn Error>> {
    let list = std::env::args_os().nth(1).ok_or("usage: demo-log NETWORKS.tsv >LOG")?;
    let networks = networks::read(std::fs::File::open(list)?)?;
    io::stdout().write_all(synthetic::cowrie_log(&networks, SEED).as_bytes())?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-log: {error}");
            ExitCode::FAILURE
        }
    }
}
