//! Returns the current values of the server's metrics, as the metric families that the engine declares. All output formats use
//! these values.
//!
//! Counters and histograms come from shared memory. The sizes of other databases also come from shared memory, where the workers of
//! those databases last stored them. For its own database, the caller may pass current sizes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use cowrie_enrich_engine::breaker::State;
use cowrie_enrich_engine::metrics::declarations as declared;
use cowrie_enrich_engine::metrics::{Declared, Family, Value};
use cowrie_enrich_engine::otlp::Signal;
use cowrie_enrich_engine::timestamp::{AtomicTimestamp, Timestamp};

use crate::guc;
use crate::mmdb::{self, ConfiguredFile, Kind};
use crate::pg::catalog::{self, Database};
use crate::pg::{Oid, clock};
use crate::provider::Provider;
use crate::provider::counters::{self, Count, OUTCOMES};
use crate::provider::health::{self, Health};
use crate::shared_state::{self, Report, UNKNOWN, UNKNOWN_TIME, WorkerSlot, owner_process};
use crate::store::cluster::Collection;
use crate::store::sizes::{Completions, Oldest, QUEUES, Queue, Sizes};
use crate::store::unfinished_erasures::Erasures;
use crate::telemetry::cells::{self, DeliveryOutcome, ResponseKind};
use crate::telemetry::{self, Counter, Distribution, Event, Exporter, Operation, networks_seen};
use crate::worker::activity::StepKind;

/// Returns all metrics with their current values. Must run inside a transaction, because it looks up the names of databases. `own`
/// has the current sizes of the caller's database. If `own` is `None`, the function uses the sizes that the worker of this database
/// last counted.
pub fn families(own: Option<&Sizes>) -> Vec<Family> {
    let databases = databases(own);
    let mut families = networks(&databases);
    families.extend(pending_counts(&databases));
    families.extend(cascade());
    families.extend(providers());
    families.extend(queues(&databases));
    families.extend(files());
    families.extend(type_files());
    families.extend(server());
    families.extend(exports());
    families.extend(workers());
    families.extend(completions(&databases));
    families.extend(erasures(&databases));
    families.extend(collections(&databases));
    families.push(by_database(&declared::TABLES_NOT_INTACT, &databases, |sizes| {
        sizes.tables_not_intact.map(number)
    }));
    families
}

fn number(number: i64) -> f64 {
    number as f64
}

fn truth(truth: bool) -> f64 {
    if truth { 1.0 } else { 0.0 }
}

/// Returns the seconds since a time; 0 for none.
fn age(since: Oldest) -> f64 {
    since.map_or(0.0, |since| (clock::now() - since).as_secs_f64())
}

/// Returns a family with one value for each database. Leaves out databases whose value is unknown.
fn by_database(
    declared: &'static Declared,
    databases: &[(String, Sizes)],
    value: impl Fn(&Sizes) -> Option<f64>,
) -> Family {
    let known = databases.iter().filter_map(|(database, sizes)| Some((database, value(sizes)?)));
    known.fold(Family::of(declared), |family, (database, value)| family.with([database], value))
}

/// Returns the databases by name, with their known sizes.
fn databases(own: Option<&Sizes>) -> Vec<(String, Sizes)> {
    let mine = catalog::own_database();
    let databases_with_worker = databases_with_worker().into_iter();
    let (ours, others): (Vec<_>, Vec<_>) =
        databases_with_worker.partition(|(database, ..)| own.is_some() && *database == mine);
    let mut known = Vec::new();
    if let (Some(sizes), Some(name)) = (own.cloned(), catalog::database_name(mine)) {
        let last = ours.first().map(|(_, _, worker_slot)| reported(&worker_slot.report));
        known.push((name, sizes.or(last.unwrap_or_default())));
    }
    known.extend(others.into_iter().map(|(_, name, worker_slot)| (name, reported(&worker_slot.report))));
    known
}

/// Returns the databases that should have a worker. Leaves out a database if its worker has not found the extension.
fn databases_with_worker() -> Vec<(Oid, String, &'static WorkerSlot)> {
    if !shared_state::is_shared() || !guc::worker_enabled() {
        return Vec::new();
    }
    let databases = catalog::databases().into_iter().filter(|it| guc::database_is_wanted(&it.name));
    let worker_slots = &shared_state::block().worker_slots;
    let worker_slot = |database: &Database| {
        let reports = |worker_slot: &&WorkerSlot| {
            worker_slot.report.database.load(Ordering::Acquire) == database.oid.to_u32()
        };
        worker_slots.iter().find(reports)
    };
    let databases_with_worker = |database: Database| {
        let worker_slot = worker_slot(&database)?;
        Some((database.oid, catalog::database_name(database.oid)?, worker_slot))
    };
    databases.filter_map(databases_with_worker).collect()
}

/// Returns the sizes that a worker last counted.
fn reported(report: &Report) -> Sizes {
    let known = |number: &AtomicI64| Some(number.load(Ordering::Relaxed)).filter(|number| *number != UNKNOWN);
    let oldest = |time: &AtomicTimestamp| {
        Some(time.load(Ordering::Relaxed)).filter(|time| *time != UNKNOWN_TIME).map(Timestamp::if_set)
    };
    let queue = |provider: Provider| {
        let queue = &report.queues[provider.index()];
        Some(Queue {
            provider,
            sizes: std::array::from_fn(|place| queue.sizes[place].load(Ordering::Relaxed)),
            oldest: oldest(&queue.oldest)?,
        })
    };
    let completions = || {
        Some(Completions {
            pending: known(&report.completions)?,
            oldest: oldest(&report.oldest_completion)?,
            suspended_owners: known(&report.suspended_owners)?,
        })
    };
    let erasures = || {
        Some(Erasures {
            failed: known(&report.failed_erasures)?,
            last_expiry: oldest(&report.last_expiry)?,
            is_scheduled: known(&report.expiry_scheduled)? > 0,
        })
    };
    let collection = || {
        Some(Collection {
            failed_nodes: known(&report.failed_nodes)?,
            oldest: oldest(&report.oldest_collection)?,
        })
    };
    Sizes {
        networks: known(&report.networks),
        oldest_count: oldest(&report.oldest_count),
        queues: Provider::all().filter_map(queue).collect(),
        completions: completions(),
        pending_networks: known(&report.pending_networks),
        tables_not_intact: known(&report.tables_not_intact),
        oldest_recount: oldest(&report.oldest_recount),
        erasures: erasures(),
        collection: collection(),
    }
}

/// Stores the state of the collection of counts from the nodes of a Citus cluster.
pub fn report_collection(report: &Report, collection: Collection) {
    report.failed_nodes.store(collection.failed_nodes, Ordering::Relaxed);
    report.oldest_collection.store(collection.oldest.unwrap_or(Timestamp::UNSET), Ordering::Relaxed);
}

/// Stores the sizes that a worker counted. If a size is unknown, its old value remains.
pub fn report(report: &Report, sizes: &Sizes) {
    let store = |to: &AtomicI64, number: Option<i64>| {
        if let Some(number) = number {
            to.store(number, Ordering::Relaxed);
        }
    };
    let store_oldest = |to: &AtomicTimestamp, oldest: Option<Oldest>| {
        if let Some(oldest) = oldest {
            to.store(oldest.unwrap_or(Timestamp::UNSET), Ordering::Relaxed);
        }
    };
    store(&report.networks, sizes.networks);
    store_oldest(&report.oldest_count, sizes.oldest_count);
    for queue in &sizes.queues {
        let to = &report.queues[queue.provider.index()];
        queue.sizes.iter().zip(&to.sizes).for_each(|(size, to)| store(to, Some(*size)));
        store_oldest(&to.oldest, Some(queue.oldest));
    }
    if let Some(completions) = sizes.completions {
        store(&report.completions, Some(completions.pending));
        store(&report.suspended_owners, Some(completions.suspended_owners));
        store_oldest(&report.oldest_completion, Some(completions.oldest));
    }
    store(&report.pending_networks, sizes.pending_networks);
    store(&report.tables_not_intact, sizes.tables_not_intact);
    store_oldest(&report.oldest_recount, sizes.oldest_recount);
    if let Some(erasures) = sizes.erasures {
        store(&report.failed_erasures, Some(erasures.failed));
        store_oldest(&report.last_expiry, Some(erasures.last_expiry));
        store(&report.expiry_scheduled, Some(i64::from(erasures.is_scheduled)));
    }
    if let Some(collection) = sizes.collection {
        report_collection(report, collection);
    }
}

fn networks(databases: &[(String, Sizes)]) -> Vec<Family> {
    let mut created = Family::of(&declared::RECORDS_CREATED);
    for (source, country, registry, networks) in cells::all_created() {
        created = created.with([source.name(), &country, registry], number(networks));
    }
    let mut updated = Family::of(&declared::RECORDS_UPDATED);
    for (source, update, networks) in cells::all_updated() {
        updated = updated.with([source.name(), update.name()], number(networks));
    }
    let size = by_database(&declared::TOTAL_COUNT, databases, |sizes| sizes.networks.map(number));
    let pending =
        by_database(&declared::PENDING_NETWORKS, databases, |sizes| sizes.pending_networks.map(number));
    let mut durations = Family::of(&declared::OPERATION_DURATION);
    for operation in Operation::ALL {
        durations.add([operation.name()], Value::Histogram(Distribution::Operation(operation).read()));
    }
    let seen = Family::of(&declared::UNIQUE_SEEN).with([], networks_seen::estimate());
    vec![created, updated, size, seen, durations, pending]
}

/// Returns the ages of the oldest delta and of the oldest recount request, and the number of lost counts. A delta waits for a fold.
/// A lost count is missing in the inventories until a recount.
fn pending_counts(databases: &[(String, Sizes)]) -> Vec<Family> {
    let ages = by_database(&declared::PENDING_COUNTS_AGE, databases, |sizes| sizes.oldest_count.map(age));
    let recounts =
        by_database(&declared::RECOUNT_OLDEST_AGE, databases, |sizes| sizes.oldest_recount.map(age));
    let lost = Family::of(&declared::COUNTS_LOST).with([], number(telemetry::read(Counter::CountsLost)));
    vec![ages, lost, recounts]
}

fn cascade() -> Vec<Family> {
    let count = |counter| number(telemetry::read(counter));
    let mut lookups = Family::of(&declared::LOOKUPS)
        .with(["cache_hit"], count(Counter::CacheHits))
        .with(["maxmind_hit"], count(Counter::MaxmindHits));
    for provider in Provider::all() {
        if let Some(hits) = Counter::hits_of(provider.name()) {
            lookups = lookups.with([&format!("{}_hit", provider.name())], count(hits));
        }
    }
    let mut trigger = Family::of(&declared::TRIGGER_DURATION);
    for event in Event::ALL {
        trigger.add([event.name()], Value::Histogram(Distribution::Trigger(event).read()));
    }
    vec![
        Family::of(&declared::ADDRESSES).with([], count(Counter::TotalIps)),
        lookups,
        Family::of(&declared::WITHOUT_ADDRESS).with([], count(Counter::WithoutAddress)),
        Family::of(&declared::ERRORS).with([], count(Counter::Errors)),
        trigger,
    ]
}

fn providers() -> Vec<Family> {
    let counted = |provider, count| number(counters::read(provider, count));
    let by = |declared, labelled: &[(&str, Count)]| {
        let mut family = Family::of(declared);
        for provider in Provider::all() {
            for (label, count) in labelled {
                family = family.with([provider.name(), label], counted(provider, *count));
            }
        }
        family
    };
    let each = |declared, value: &dyn Fn(Provider) -> Option<Value>| {
        let mut family = Family::of(declared);
        for provider in Provider::all() {
            if let Some(value) = value(provider) {
                family.add([provider.name()], value);
            }
        }
        family
    };
    let plain =
        |declared, count: Count| each(declared, &|provider| Some(Value::Number(counted(provider, count))));
    let health: Vec<_> = Provider::all().map(health::health).collect();
    let gauge = |declared, value: &dyn Fn(&Health) -> Option<f64>| {
        each(declared, &|provider| value(&health[provider.index()]).map(Value::Number))
    };
    let unix = |time: Option<Timestamp>| Some(time.map_or(0.0, Timestamp::unix_seconds));
    vec![
        by(&declared::PROVIDER_REQUESTS, &OUTCOMES),
        plain(&declared::PROVIDER_LOOKUPS, Count::LookupKeys),
        by(&declared::PROVIDER_ANSWERS, &[("value", Count::Values), ("absent", Count::Absent)]),
        plain(&declared::PROVIDER_SHARED, Count::Shared),
        by(&declared::PROVIDER_UNANSWERED, &[("missing", Count::Unanswered), ("refused", Count::Refused)]),
        by(
            &declared::PROVIDER_DROPPED,
            &[("foreign", Count::Foreign), ("malformed", Count::Malformed), ("oversized", Count::Oversized)],
        ),
        plain(&declared::PROVIDER_DEAD_LETTERS, Count::DeadLetters),
        each(&declared::PROVIDER_DURATION, &|provider| {
            Some(Value::Histogram(Distribution::Request(provider).read()))
        }),
        each(&declared::PROVIDER_BATCH, &|provider| {
            Some(Value::Histogram(Distribution::Batch(provider).read()))
        }),
        gauge(&declared::PROVIDER_IN_FLIGHT, &|health| Some(f64::from(health.in_use))),
        gauge(&declared::PROVIDER_QUOTA, &|health| health.quota.map(|(quota, ..)| f64::from(quota))),
        gauge(&declared::PROVIDER_QUOTA_LEFT, &|health| health.quota.map(|(_, left, _)| left as f64)),
        each(&declared::PROVIDER_ENABLED, &|provider| {
            Some(Value::Number(truth(provider.is_enabled() && provider.blocked_reason().is_none())))
        }),
        gauge(&declared::PROVIDER_BREAKER, &|health| {
            Some(match health.state {
                State::Closed => 0.0,
                State::HalfOpen => 1.0,
                State::Open => 2.0,
            })
        }),
        gauge(&declared::PROVIDER_FAILURES, &|health| Some(f64::from(health.failures))),
        gauge(&declared::PROVIDER_STOPPED, &|health| Some(truth(health.is_stopped))),
        gauge(&declared::PROVIDER_BACKOFF_UNTIL, &|health| unix(health.backoff_until)),
        gauge(&declared::PROVIDER_LAST_SUCCESS, &|health| unix(health.last_success)),
    ]
}

fn queues(databases: &[(String, Sizes)]) -> Vec<Family> {
    let mut depth = Family::of(&declared::QUEUE_DEPTH);
    let mut addresses = Family::of(&declared::QUEUE_ADDRESSES);
    let mut ages = Family::of(&declared::QUEUE_OLDEST_AGE);
    let mut dead = Family::of(&declared::QUEUE_DEAD_LETTERS);
    for (database, sizes) in databases {
        for queue in &sizes.queues {
            let provider = queue.provider.name();
            for (what, size) in QUEUES.into_iter().zip(queue.sizes.map(number)) {
                match what {
                    "addresses" => addresses = addresses.with([database, provider], size),
                    "dead" => dead = dead.with([database, provider], size),
                    state => depth = depth.with([database, provider, state], size),
                }
            }
            ages = ages.with([database, provider], age(queue.oldest));
        }
    }
    vec![depth, addresses, ages, dead]
}

/// Returns the numbers of pending completions and suspended owners, which the workers counted. Also returns counts of the owner
/// processes.
fn completions(databases: &[(String, Sizes)]) -> Vec<Family> {
    let of = |declared, value: fn(Completions) -> f64| {
        by_database(declared, databases, |sizes| sizes.completions.map(value))
    };
    let pending = of(&declared::COMPLETIONS_PENDING, |completions| number(completions.pending));
    let ages = of(&declared::COMPLETION_OLDEST_AGE, |completions| age(completions.oldest));
    let suspended = of(&declared::SUSPENDED_OWNERS, |completions| number(completions.suspended_owners));
    let mut abandoned = Family::of(&declared::ABANDONED_PROCESSES);
    let mut launch_failures = Family::of(&declared::LAUNCH_FAILURES);
    for (database, name, worker_slot) in databases_with_worker() {
        abandoned = abandoned.with([&name], owner_process::abandoned(database) as f64);
        let failures = worker_slot.report.launch_failures.load(Ordering::Relaxed);
        launch_failures = launch_failures.with([&name], number(failures));
    }
    vec![pending, ages, suspended, abandoned, launch_failures]
}

/// Returns the state of the calls that erase addresses.
fn erasures(databases: &[(String, Sizes)]) -> Vec<Family> {
    let of = |declared, value: fn(Erasures) -> f64| {
        by_database(declared, databases, |sizes| sizes.erasures.map(value))
    };
    let last_expiry = |erasures: Erasures| erasures.last_expiry.map_or(0.0, Timestamp::unix_seconds);
    vec![
        of(&declared::ERASURES_FAILED, |erasures| number(erasures.failed)),
        of(&declared::EXPIRY_SCHEDULED, |erasures| truth(erasures.is_scheduled)),
        of(&declared::EXPIRY_LAST_SUCCESS, last_expiry),
    ]
}

/// Returns the state of the collection of counts from the nodes of Citus clusters.
fn collections(databases: &[(String, Sizes)]) -> Vec<Family> {
    let mut counts = Family::of(&declared::CITUS_COUNTS_COLLECTED);
    let mut failures = Family::of(&declared::CITUS_COLLECTION_FAILURES);
    for (_, name, worker_slot) in databases_with_worker() {
        let read = |counter: &AtomicI64| number(counter.load(Ordering::Relaxed));
        counts = counts.with([&name], read(&worker_slot.report.collected_counts));
        failures = failures.with([&name], read(&worker_slot.report.collection_failures));
    }
    let of = |declared, value: fn(Collection) -> f64| {
        by_database(declared, databases, |sizes| sizes.collection.map(value))
    };
    vec![
        counts,
        failures,
        of(&declared::CITUS_NODES_FAILED, |collection| number(collection.failed_nodes)),
        of(&declared::CITUS_COLLECTION_OLDEST_AGE, |collection| age(collection.oldest)),
    ]
}

fn files() -> Vec<Family> {
    let mut ages = Family::of(&declared::MMDB_BUILD_AGE);
    let mut loaded = Family::of(&declared::MMDB_LOADED);
    let mut in_service = Family::of(&declared::MMDB_IN_SERVICE);
    let mut too_old = Family::of(&declared::MMDB_TOO_OLD);
    for ConfiguredFile { id, .. } in Kind::ALL.into_iter().flat_map(Kind::files) {
        let status = mmdb::status(id).unwrap_or_default();
        let is_too_old = status.is_too_old(id.kind);
        let is_in_service = status.file.is_some() && !is_too_old;
        let number = id.number.to_string();
        too_old = too_old.with([id.kind.name(), &number], f64::from(u8::from(is_too_old)));
        in_service = in_service.with([id.kind.name(), &number], f64::from(u8::from(is_in_service)));
        if !is_in_service {
            continue;
        }
        let labels = [id.kind.name(), &number, status.vendor.as_deref().unwrap_or_default()];
        if let Some(built) = status.build_epoch {
            ages = ages.with(labels, age(Some(Timestamp::from_unix(built))));
        }
        if let Some(at) = status.loaded_at {
            loaded = loaded.with(labels, at.unix_seconds());
        }
    }
    vec![ages, loaded, in_service, too_old]
}

/// Returns the state of the mmdb files with types of addresses, and the ages of the lists in these files.
fn type_files() -> Vec<Family> {
    let mut ages = Family::of(&declared::IP_TYPE_LIST_AGE);
    let (mut loaded, mut missing, mut usable, mut stale) = (0, 0, 0, 0);
    let max_ages = guc::ip_type_max_ages();
    let now = mmdb::unix_seconds(clock::now());
    // If several files have a list with the same name and type, the metric shows the age of the oldest of these lists.
    let mut published: BTreeMap<(String, String), u64> = BTreeMap::new();
    for ConfiguredFile { id, .. } in Kind::Types.files() {
        let Some(status) = mmdb::status(id).filter(mmdb::Status::serves) else {
            missing += 1;
            continue;
        };
        loaded += 1;
        for list in status.lists {
            *(if max_ages.allows(&list.kind, list.published, now) { &mut usable } else { &mut stale }) += 1;
            let oldest = published.entry((list.name, list.kind)).or_insert(list.published);
            *oldest = list.published.min(*oldest);
        }
    }
    for ((name, kind), at) in &published {
        ages = ages.with([name.as_str(), kind.as_str()], age(Some(mmdb::published(*at))));
    }
    let files = Family::of(&declared::IP_TYPE_FILES)
        .with(["loaded"], number(loaded))
        .with(["missing"], number(missing));
    let lists =
        Family::of(&declared::IP_TYPE_LISTS).with(["usable"], number(usable)).with(["stale"], number(stale));
    vec![files, lists, ages]
}

fn server() -> Vec<Family> {
    let is_up = shared_state::is_shared() && shared_state::block().launcher.is_taken();
    vec![
        Family::of(&declared::LAUNCHER_UP).with([], truth(is_up)),
        Family::of(&declared::STANDBY).with([], truth(catalog::is_standby())),
    ]
}

fn exports() -> Vec<Family> {
    let exporter = shared_state::is_shared() && shared_state::block().exporter.is_taken();
    let exporter = Family::of(&declared::EXPORTER_UP).with([], truth(exporter));
    let (mut exports, mut export_failures) =
        (Family::of(&declared::EXPORTS), Family::of(&declared::EXPORT_FAILURES));
    for by in Exporter::ALL {
        exports = exports.with([by.name()], number(by.done()));
        export_failures = export_failures.with([by.name()], number(by.failed()));
    }
    let (mut requests, mut items) = (Family::of(&declared::OTLP_REQUESTS), Family::of(&declared::OTLP_ITEMS));
    for signal in Signal::ALL {
        for answered in ResponseKind::ALL {
            let count = number(cells::requests(signal, answered).read());
            requests = requests.with([signal.name(), answered.name()], count);
        }
        for delivery in DeliveryOutcome::ALL {
            let count = number(cells::items(signal, delivery).read());
            items = items.with([signal.name(), delivery.name()], count);
        }
    }
    vec![exporter, exports, export_failures, requests, items]
}

fn workers() -> Vec<Family> {
    let mut up = Family::of(&declared::WORKER_UP);
    let mut ages = Family::of(&declared::WORKER_HEARTBEAT_AGE);
    let mut batches = Family::of(&declared::WORKER_BATCHES);
    let mut errors = Family::of(&declared::WORKER_ERRORS);
    let mut step_errors = Family::of(&declared::WORKER_STEP_ERRORS);
    let mut naptimes = Family::of(&declared::WORKER_NAPTIMES);
    let mut unsafe_keys = Family::of(&declared::UNSAFE_FOREIGN_KEYS);
    let mut shown = Vec::new();
    for (database, name, worker_slot) in databases_with_worker() {
        let sits =
            Oid::from(worker_slot.database.load(Ordering::Acquire)) == database && worker_slot.is_taken();
        let read = |number: &AtomicI64| number.load(Ordering::Relaxed);
        up = up.with([&name], truth(sits));
        if let Some(heartbeat) = worker_slot.report.heartbeat.load(Ordering::Relaxed).if_set() {
            ages = ages.with([&name], age(Some(heartbeat)));
        }
        batches = batches.with([&name], number(read(&worker_slot.report.batches)));
        errors = errors.with([&name], number(read(&worker_slot.report.errors)));
        for kind in StepKind::ALL {
            let count = read(&worker_slot.report.step_errors[kind as usize]);
            step_errors = step_errors.with([name.as_str(), kind.name()], number(count));
        }
        naptimes = naptimes.with([&name], read(&worker_slot.report.slept) as f64 / 1_000.0);
        unsafe_keys = unsafe_keys.with([&name], number(read(&worker_slot.report.unsafe_keys)));
        shown.push(database);
    }
    // A database that never had a worker has reported nothing.
    for waiting in shared_state::waiting() {
        let database = Oid::from(waiting.database);
        if !shown.contains(&database)
            && let Some(name) = catalog::database_name(database)
        {
            up = up.with([&name], 0.0);
        }
    }
    vec![up, ages, batches, errors, step_errors, naptimes, unsafe_keys]
}
