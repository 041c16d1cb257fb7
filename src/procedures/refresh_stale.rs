//! Renews answers that have expired or are missing. Answers from the mmdb files are renewed at once. For answers from providers,
//! lookups are queued.

use cowrie_enrich_engine::address::Address;

use super::{Options, Procedure, Run, run};
use crate::mmdb::{self, LoadPolicy};
use crate::pg::Oid;
use crate::pg::sql_function::Call;
use crate::provider::{Provider, Providers};
use crate::store::{enrich, refresh_stale};
use crate::{error, guc};

const MOST_IPS: (i64, i64) = (1, 1_000_000);
/// Number of addresses that one transaction renews. Such a transaction takes less than a second.
const BATCH: usize = 1_000;

/// The source whose answers are renewed.
#[derive(Clone, Copy)]
enum Source {
    Files,
    Online(Provider),
}

/// Entry point of `refresh_stale()`.
pub fn refresh(call: &Call) {
    let sources = sources(call.text(0).as_deref());
    let Some(most) = call.integer(1).map(i64::from) else { error::null_argument("max_ips") };
    if !(MOST_IPS.0..=MOST_IPS.1).contains(&most) {
        error::out_of_range("max_ips", most, MOST_IPS);
    }
    // In a transaction block, the call cannot commit between batches. A second batch would then lock networks while the addresses
    // of the first batch are locked. The order of locks does not allow this. So inside a transaction block, the call processes all
    // addresses in one batch.
    let batch = if call.is_atomic() { usize::MAX } else { BATCH };
    let options = Options {
        procedure: Procedure::RefreshStale,
        relation: Oid::INVALID,
        progress: true,
        needs_commits: false,
    };
    run(call, &options, |run| {
        let of = |source: &Source| match *source {
            Source::Files => ("maxmind", redo(run, most, batch)),
            Source::Online(provider) => (provider.name(), queue(run, provider, most)),
        };
        sources.iter().map(of).collect()
    });
}

/// Returns the source with this name. If no name is given, returns all enabled sources. The mmdb files come first, because an
/// address whose network is in the files needs no lookup at a provider.
fn sources(named: Option<&str>) -> Vec<Source> {
    let are_files_enabled = guc::names(&guc::enabled_sources(), "maxmind");
    let Some(named) = named else {
        let files = are_files_enabled.then_some(Source::Files);
        return files.into_iter().chain(Providers::enabled().iter().map(Source::Online)).collect();
    };
    let (source, is_enabled) = match Provider::named(named) {
        Some(provider) => (Source::Online(provider), provider.is_enabled()),
        None if named == "maxmind" => (Source::Files, are_files_enabled),
        None => error::unknown_source(named),
    };
    if !is_enabled {
        error::source_disabled(named);
    }
    vec![source]
}

/// Renews answers that are older than the mmdb files in use. Returns the number of renewed answers.
fn redo(run: &mut Run, most: i64, batch: usize) -> i64 {
    run.begin("maxmind", 0);
    let oids = run.oids;
    let mut due: Vec<Address> = Vec::new();
    run.batch(|connection| {
        // If newer files exist, loads them first.
        mmdb::with(LoadPolicy::Import, |_| ());
        due = refresh_stale::addresses(connection, "maxmind", most);
        0
    });
    due.sort_unstable();
    run.begin("maxmind", due.len() as i64);
    for chunk in due.chunks(batch) {
        run.batch(|connection| {
            mmdb::with(LoadPolicy::None, |files| enrich::renew(oids, connection, files, chunk.to_vec()));
            chunk.len() as i64
        });
    }
    due.len() as i64
}

/// Queues lookups for the stale answers of a provider. Returns the number of queued lookups.
fn queue(run: &mut Run, provider: Provider, most: i64) -> i64 {
    // The total is 0 here, because the number of stale answers is known only after their lookups are queued.
    run.begin(provider.name(), 0);
    let mut queued = 0;
    run.batch(|connection| {
        queued = refresh_stale::queue(connection, provider, most);
        queued
    });
    queued
}
