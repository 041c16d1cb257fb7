//! Measures the extension and its alternatives in one run. Prints ratios, each with its aim. bench/README.md describes
//! the measurements.

mod addresses;
mod analysis;
mod backfill;
mod callgrind;
mod citus;
mod cymru;
mod enrich;
mod erasure;
mod folding;
mod growth;
mod history;
mod html_report;
mod inserts;
mod instructions;
mod ip_types;
mod isolation;
mod large;
mod lists;
mod lookups;
mod metrics;
mod pgbench;
mod prefixes;
mod providers;
mod queue;
mod report;
mod session_cost;
mod sites;

use server_tests::database::{Database, fresh_database, make_template};
use server_tests::{Cluster, Options};

use addresses::Addresses;
use report::Report;

/// Settings from the environment.
pub struct Effort {
    pub rounds: usize,
    pub seconds: u64,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let of_files = ["enrich", "lookups", "lists", "inserts", "batches", "bulk", "growth", "large"];
    let of_history = ["networks", "backfill", "analysis", "timeline", "prefixes", "report", "erasure"];
    let known = [
        &of_files[..],
        &of_history[..],
        &[
            "cymru",
            "providers",
            "sources",
            "queue",
            "folding",
            "session_cost",
            "metrics",
            "ip_types",
            "sites",
            "isolation",
            "citus",
            "instructions",
        ],
    ]
    .concat();
    if let Some(unknown) = wanted.iter().find(|w| !known.contains(&w.as_str())) {
        eprintln!("unknown measurement \"{unknown}\"; valid measurements: {}", known.join(", "));
        std::process::exit(2);
    }
    let asked_for = |what: &str| wanted.is_empty() || wanted.iter().any(|w| w == what);
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
    };
    let effort = Effort { rounds: number("ROUNDS", 5) as usize, seconds: number("SECONDS_A_RUN", 6) };

    let mut report = Report::default();
    if of_files.iter().any(|what| asked_for(what)) {
        measure_files(&asked_for, &effort, &mut report);
    }
    if of_history.iter().any(|what| asked_for(what)) {
        measure_history(&asked_for, &effort, &mut report);
    }
    if asked_for("cymru") {
        cymru::measure(&effort, &mut report);
    }
    if asked_for("providers") {
        providers::measure(&effort, &mut report);
    }
    if asked_for("sources") {
        providers::measure_sources(&effort, &mut report);
    }
    if asked_for("queue") {
        queue::measure(&mut report);
    }
    if asked_for("folding") {
        folding::measure(&effort, &mut report);
    }
    if asked_for("session_cost") {
        session_cost::measure(&effort, &mut report);
    }
    if asked_for("metrics") {
        metrics::measure(&effort, &mut report);
    }
    if asked_for("ip_types") {
        ip_types::measure(&effort, &mut report);
    }
    if asked_for("sites") {
        sites::measure(&effort, &mut report);
    }
    // Takes ten minutes, so it runs only if it is named.
    if wanted.iter().any(|what| what == "isolation") {
        isolation::measure(&mut report);
    }
    // Needs an installation with Citus, so it runs only if it is named.
    if wanted.iter().any(|what| what == "citus") {
        citus::measure(&effort, &mut report);
    }
    // Needs an earlier commit, which bench/run installs if this measurement is named.
    if wanted.iter().any(|what| what == "instructions") {
        instructions::measure(&effort, &mut report);
    }
    report.print();
}

/// Measurements over a year of sessions, on one server, each in a separate database.
fn measure_history(asked_for: &impl Fn(&str) -> bool, effort: &Effort, report: &mut Report) {
    let cluster = history::cluster();
    let addresses = Addresses::prepare(&cluster);
    make_template(&cluster);
    fresh_database(&cluster).run("SELECT enrich.reload_mmdb()");
    report.real = addresses.real;
    if asked_for("networks") {
        backfill::measure_networks(&cluster, &addresses, report);
    }
    if asked_for("backfill") {
        backfill::measure_sessions(&cluster, &addresses, report);
    }
    if ["analysis", "timeline", "prefixes", "report", "erasure"].iter().any(|what| asked_for(what)) {
        let mut db = analysis::prepare(&cluster, &addresses);
        if asked_for("analysis") {
            analysis::measure(&mut db, effort, report);
        }
        if asked_for("timeline") {
            analysis::measure_timelines(&mut db, effort, report);
        }
        if asked_for("prefixes") {
            prefixes::measure(&mut db, effort, report);
        }
        if asked_for("report") {
            html_report::measure(&mut db, effort, report);
        }
        // The last one, because it changes the documents of sessions.
        if asked_for("erasure") {
            erasure::measure(&mut db, effort, report);
        }
    }
}

/// Measurements that need the databases of locations and networks, on one server.
fn measure_files(asked_for: &impl Fn(&str) -> bool, effort: &Effort, report: &mut Report) {
    let cluster = Cluster::start(
        &Options::named("bench")
            .durable()
            .conf("shared_buffers = 1GB")
            .conf("max_wal_size = 1GB")
            .conf("max_parallel_workers_per_gather = 0")
            .conf("work_mem = 64MB")
            .conf("maintenance_work_mem = 256MB")
            .conf("checkpoint_timeout = 1h"),
    );
    let addresses = Addresses::prepare(&cluster);
    make_template(&cluster);
    let mut db: Database = fresh_database(&cluster);
    report.real = addresses.real;

    if asked_for("growth") {
        growth::measure(&cluster, &addresses, effort, report);
    }
    if asked_for("large") {
        large::measure(&cluster, &addresses, effort, report);
    }
    addresses.store(&mut db);
    if asked_for("enrich") {
        enrich::measure(&mut db, &addresses, effort, report);
    }
    if asked_for("lookups") {
        lookups::measure(&mut db, &addresses, effort, report);
    }
    if asked_for("lists") {
        lists::measure(&mut db, &addresses, effort, report);
    }
    if asked_for("inserts") || asked_for("batches") || asked_for("bulk") {
        inserts::prepare(&mut db, &addresses);
        if asked_for("inserts") {
            inserts::measure_single(&mut db, effort, report);
        }
        if asked_for("batches") {
            inserts::measure_batches(&mut db, effort, report);
        }
        if asked_for("bulk") {
            inserts::measure_bulk(&mut db, effort, report);
        }
        inserts::check_counts(&mut db);
    }
}
