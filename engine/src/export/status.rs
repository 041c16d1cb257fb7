//! Contents of the status files.
//!
//! The files have the layout that the Python system uses, because the monitor of the Python system reads the files.
//! Each phase has its own file, and one more file contains the objects of all phases. A shortened example:
//!
//! ```text
//! {"last_updated":"2026-11-20T03:18:32.123456+00:00","phases":{"enrichment":{
//!     "phase":"enrichment","ingest_id":"cowrie_enrich","last_updated":"2026-11-20T03:18:32.123456+00:00",
//!     "metrics":{"asn_records_created":3,…},"checkpoint":{"source":"honeypot","offset":250,"batch_index":5},
//!     "dead_letter":{"total":0},"status_file":"enrichment.json"}}}
//! ```
//!
//! Each number is a sum over a metric family. New versions may add keys, but must not remove keys. The Python system
//! also counts its caches and its other services. This extension has neither, so these values are 0.

use serde_json::{Map, Value, json};

use crate::metrics::declarations::{
    ADDRESSES, ERRORS, LOOKUPS, OPERATION_DURATION, PROVIDER_ANSWERS, PROVIDER_DURATION,
    PROVIDER_LAST_SUCCESS, PROVIDER_REQUESTS, PROVIDER_SHARED, QUEUE_ADDRESSES, QUEUE_DEAD_LETTERS,
    QUEUE_DEPTH, RECORDS_CREATED, RECORDS_UPDATED, TOTAL_COUNT, UNIQUE_SEEN, WORKER_BATCHES,
    WORKER_HEARTBEAT_AGE,
};
use crate::metrics::{Declared, Family, Sample};
use crate::timestamp::Timestamp;

/// Phases with their own file.
pub const PHASES: &[&str] = &[
    ENRICHMENT,
    BACKFILL,
    REFRESH,
    "build_asn_inventory",
    "refresh_session_counts",
    "import_inventory",
    "add_session_foreign_key",
    "erase_address",
    "expire_addresses",
];

/// Phase of address lookups, in all databases.
const ENRICHMENT: &str = "enrichment";

/// Phase of `backfill_sessions()`, under the Python system's name.
const BACKFILL: &str = "snapshot_backfill";
/// Phase of `refresh_stale()`, under the Python system's name.
const REFRESH: &str = "enrichment_refresh";

/// Name of the program that writes the files. The Python system writes the number of a run under this key.
const INGEST_ID: &str = "cowrie_enrich";

/// Why the last job was moved to the dead letters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub provider: &'static str,
    pub reason: String,
    pub at: Timestamp,
}

/// The state of the most recent call of a procedure that works in batches. The state is updated at each commit of the
/// call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    pub procedure: &'static str,
    pub database: String,
    pub state: State,
    pub step: String,
    pub batches: i64,
    /// Items done in this step.
    pub done: i64,
    pub total: i64,
    pub began: Timestamp,
    pub step_began: Timestamp,
    pub updated: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Running,
    Complete,
    /// The call failed, or its process was killed.
    Stopped,
}

/// A phase's status without its timestamp.
#[derive(Clone, PartialEq, Debug)]
pub struct Phase {
    pub name: &'static str,
    metrics: Value,
    checkpoint: Value,
    dead_letter: Value,
}

impl Phase {
    /// Returns the name of the phase's file.
    pub fn file(&self) -> String {
        format!("{}.json", self.name)
    }

    /// Returns the contents of the phase's file.
    pub fn document(&self, now: Timestamp) -> Map<String, Value> {
        let fields = [
            ("phase", json!(self.name)),
            ("ingest_id", json!(INGEST_ID)),
            ("last_updated", json!(now.to_iso8601())),
            ("metrics", self.metrics.clone()),
            ("checkpoint", self.checkpoint.clone()),
            ("dead_letter", self.dead_letter.clone()),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Returns the aggregate of all phases.
pub fn aggregate(phases: &[Phase], now: Timestamp) -> Map<String, Value> {
    let entries: Map<String, Value> = phases
        .iter()
        .map(|phase| {
            let mut entry = phase.document(now);
            entry.insert("status_file".to_owned(), json!(phase.file()));
            (phase.name.to_owned(), Value::Object(entry))
        })
        .collect();
    [("last_updated", json!(now.to_iso8601())), ("phases", Value::Object(entries))]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Returns the status of address lookups, computed from the metric families. `last_failure` is the failure of the
/// newest dead letter. It is `None` if this failure is not known.
pub fn enrichment(families: &[Family], last_failure: Option<&Failure>) -> Phase {
    let of = |declared| Samples::of(families, declared);
    let (lookups, requests) = (of(&LOOKUPS), of(&PROVIDER_REQUESTS));
    let addresses = of(&ADDRESSES).sum();
    let hits = lookups.by("result", "cache_hit").sum();
    let answers = of(&PROVIDER_ANSWERS).sum();
    let all_requests = requests.sum();
    let completed = requests.by("outcome", "completed").sum();
    let errors = of(&ERRORS).sum();
    let batches = of(&WORKER_BATCHES).sum();

    let mut metrics = Metrics(Map::new());
    for (key, number) in [
        ("asn_records_created", of(&RECORDS_CREATED).sum()),
        ("asn_records_updated", of(&RECORDS_UPDATED).sum()),
        ("asn_operation_duration_ms", of(&OPERATION_DURATION).sum()),
        ("asn_unique_count", of(&UNIQUE_SEEN).sum()),
        ("asn_total_inventory_size", of(&TOTAL_COUNT).sum()),
        ("cache_hits", hits),
        ("cache_misses", (addresses - hits).max(0.0)),
        ("cache_stores", answers),
        ("l3_api_calls", all_requests),
        ("api_calls_total", all_requests),
        ("api_calls_successful", completed),
        ("api_calls_failed", all_requests - completed),
        ("rate_limit_hits", requests.by("outcome", "throttled").sum()),
        ("rate_limit_delays", 0.0),
        ("enrichment_duration_ms", of(&PROVIDER_DURATION).sum() * 1000.0),
        ("sessions_enriched", addresses),
        ("files_enriched", 0.0),
        ("virustotal_calls", 0.0),
        ("urlhaus_calls", 0.0),
        ("enrichment_errors", errors),
        ("cache_errors", 0.0),
        ("shared_answers", of(&PROVIDER_SHARED).sum()),
        ("queue_depth", of(&QUEUE_DEPTH).sum()),
        ("queue_addresses", of(&QUEUE_ADDRESSES).sum()),
        // Fields that the monitor shows for every phase.
        ("records_processed", addresses),
        ("records_updated", answers),
        ("records_skipped", hits),
        ("errors", errors),
        ("batches_processed", batches),
    ] {
        metrics.set(key, number);
    }
    for cache in ["l1_redis", "l2_filesystem"] {
        for what in ["hits", "misses", "stores", "errors", "latency_ms"] {
            metrics.set(&format!("{cache}_{what}"), 0.0);
        }
    }
    for provider in requests.labels("provider") {
        let own = requests.by("provider", provider);
        metrics.set(&format!("{provider}_calls"), own.sum());
        metrics.set(&format!("{provider}_failures"), own.sum() - own.by("outcome", "completed").sum());
    }
    for result in lookups.labels("result").filter(|result| *result != "cache_hit") {
        metrics.set(&format!("{result}s"), lookups.by("result", result).sum());
    }
    let last = of(&PROVIDER_LAST_SUCCESS).numbers().fold(0.0, f64::max);
    let last = (last > 0.0).then(|| Timestamp::from_unix_seconds(last).to_iso8601());
    metrics.0.insert("last_enrichment_time".to_owned(), json!(last));
    metrics.0.insert("ingest_id".to_owned(), json!(INGEST_ID));
    Phase {
        name: ENRICHMENT,
        metrics: Value::Object(metrics.0),
        checkpoint: checkpoint(families, answers, batches),
        dead_letter: dead_letter(of(&QUEUE_DEAD_LETTERS).sum(), last_failure),
    }
}

/// Returns the status of a procedure call.
pub fn call(call: &Call) -> Phase {
    let name = match call.procedure {
        "backfill_sessions" => BACKFILL,
        "refresh_stale" => REFRESH,
        other => other,
    };
    let state = match call.state {
        State::Running => "running",
        State::Complete => "complete",
        State::Stopped => "stopped",
    };
    let seconds = |from: Timestamp| (call.updated - from).as_secs_f64();
    // `call.total` is an estimate, and the call may process more or fewer items. So the total of a complete call is the
    // number of items that the call processed.
    let total = if call.state == State::Complete { call.done } else { call.total.max(call.done) };
    let percent = match (call.state, total) {
        (State::Complete, _) => 100.0,
        (_, 0) => 0.0,
        (_, total) => call.done as f64 * 100.0 / total as f64,
    };
    let rate = call.done as f64 / seconds(call.step_began).max(0.001);
    let mut metrics = Metrics(Map::new());
    for (key, number) in [
        ("batch", call.batches as f64),
        ("percent_complete", rounded(percent)),
        ("elapsed_seconds", rounded(seconds(call.began))),
        // If a batch fails, the procedure call ends. So a running procedure call has no failed batches.
        ("failed_batches", 0.0),
        ("events_read", call.done as f64),
        ("events_total", total as f64),
        ("events_per_second", rounded(rate)),
    ] {
        metrics.set(key, number);
    }
    match name {
        BACKFILL => {
            metrics.set("sessions_processed", call.done as f64);
            metrics.set("total_sessions", total as f64);
            metrics.set("sessions_per_second", rounded(rate));
        }
        REFRESH => {
            metrics.set("ips_processed", call.done as f64);
            metrics.set("ips_total", total as f64);
        }
        _ => {}
    }
    for (key, text) in [("phase", call.step.as_str()), ("state", state), ("ingest_id", INGEST_ID)] {
        metrics.0.insert(key.to_owned(), json!(text));
    }
    Phase {
        name,
        metrics: Value::Object(metrics.0),
        checkpoint: json!({ "source": call.database, "offset": call.done, "batch_index": call.batches }),
        dead_letter: json!({ "total": 0 }),
    }
}

/// Rounds to two decimals.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Returns the progress of the workers: the number of answers and the number of batches that all workers applied. The
/// value `source` names one database. Among the databases whose workers applied batches, it is the one with the newest
/// heartbeat. If no batch was applied yet, the object is empty.
fn checkpoint(families: &[Family], answers: f64, batches: f64) -> Value {
    if batches == 0.0 {
        return json!({});
    }
    let ages = Samples::of(families, &WORKER_HEARTBEAT_AGE);
    let written = Samples::of(families, &WORKER_BATCHES);
    let has_written = |database: &&str| written.by("database", database).sum() > 0.0;
    let youngest = ages.labels("database").filter(has_written).min_by(|one, other| {
        let age = |database| ages.by("database", database).sum();
        age(*one).total_cmp(&age(*other))
    });
    json!({ "source": youngest, "offset": number(answers), "batch_index": number(batches) })
}

/// Returns the number of dead letters. If there are dead letters, also returns the failure of the newest one.
fn dead_letter(total: f64, last: Option<&Failure>) -> Value {
    match last.filter(|_| total > 0.0) {
        None => json!({ "total": number(total) }),
        Some(Failure { provider, reason, at }) => json!({
            "total": number(total),
            "last_reason": reason,
            "last_source": provider,
            "last_updated": at.to_iso8601(),
        }),
    }
}

struct Metrics(Map<String, Value>);

impl Metrics {
    fn set(&mut self, key: &str, value: f64) {
        self.0.insert(key.to_owned(), number(value));
    }
}

/// Writes whole numbers without a decimal point.
fn number(value: f64) -> Value {
    // f64 represents every integer up to 2^53 exactly, and every count is far below this number.
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

/// A subset of a family's samples.
#[derive(Clone)]
struct Samples<'a> {
    samples: Vec<(&'a Family, &'a Sample)>,
}

impl<'a> Samples<'a> {
    fn of(families: &'a [Family], declared: &Declared) -> Samples<'a> {
        let of_family = |family: &'a Family| family.samples.iter().map(move |sample| (family, sample));
        let own = families.iter().filter(|family| family.declared.name == declared.name);
        Samples { samples: own.flat_map(of_family).collect() }
    }

    fn by(&self, name: &str, value: &str) -> Samples<'a> {
        let has = |(family, sample): &&(&'a Family, &'a Sample)| {
            family.labels(sample).any(|label| label == (name, value))
        };
        Samples { samples: self.samples.iter().filter(has).copied().collect() }
    }

    /// Returns the distinct values of a label. They are in the order of the samples.
    fn labels(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let mut seen: Vec<&'a str> = Vec::new();
        for (family, sample) in &self.samples {
            let value = family.labels(sample).find(|(own, _)| *own == name).map(|(_, value)| value);
            seen.extend(value.filter(|value| !seen.contains(value)));
        }
        seen.into_iter()
    }

    /// Returns the values; for a histogram, the sum of its observations.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|(_, sample)| match &sample.value {
            crate::metrics::Value::Number(number) => *number,
            crate::metrics::Value::Histogram(histogram) => histogram.sum,
        })
    }

    fn sum(&self) -> f64 {
        self.numbers().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Histogram, Value as Measured};

    fn families() -> Vec<Family> {
        let mut durations = Family::of(&OPERATION_DURATION);
        for (operation, sum) in [("create", 1.5), ("update", 0.25)] {
            let histogram = Histogram { bounds: &[1.0], counts: vec![2, 1], sum };
            durations.add([operation], Measured::Histogram(histogram));
        }
        vec![
            Family::of(&ADDRESSES).with([], 100.0),
            Family::of(&LOOKUPS)
                .with(["cache_hit"], 60.0)
                .with(["maxmind_hit"], 30.0)
                .with(["cymru_hit"], 5.0),
            Family::of(&RECORDS_CREATED)
                .with(["maxmind", "US", "ARIN"], 3.0)
                .with(["cymru", "DE", "RIPE"], 4.0),
            Family::of(&RECORDS_UPDATED).with(["cymru", "metadata_enrichment"], 2.0),
            Family::of(&UNIQUE_SEEN).with([], 5.0),
            Family::of(&TOTAL_COUNT).with(["one"], 7.0).with(["two"], 8.0),
            durations,
            Family::of(&PROVIDER_REQUESTS)
                .with(["cymru", "completed"], 9.0)
                .with(["cymru", "throttled"], 1.0)
                .with(["spur", "completed"], 0.0)
                .with(["spur", "unreachable"], 2.0),
            Family::of(&PROVIDER_ANSWERS).with(["cymru", "value"], 5.0).with(["cymru", "absent"], 1.0),
            Family::of(&QUEUE_DEAD_LETTERS).with(["one", "spur"], 2.0),
            Family::of(&WORKER_BATCHES).with(["one"], 3.0).with(["two"], 4.0).with(["idle"], 0.0),
            Family::of(&WORKER_HEARTBEAT_AGE).with(["one"], 3.5).with(["two"], 0.5).with(["idle"], 0.1),
            Family::of(&PROVIDER_LAST_SUCCESS).with(["cymru"], 946_771_200.5).with(["spur"], 0.0),
        ]
    }

    #[test]
    fn numbers_are_sums_of_the_families() {
        let failure = Failure {
            provider: "spur",
            reason: "connection refused".into(),
            at: Timestamp::from_micros(2_000_000),
        };
        let phase = enrichment(&families(), Some(&failure));
        for (key, expected) in [
            ("asn_records_created", json!(7)),
            ("asn_records_updated", json!(2)),
            ("asn_operation_duration_ms", json!(1.75)),
            ("asn_unique_count", json!(5)),
            ("asn_total_inventory_size", json!(15)),
            ("cache_hits", json!(60)),
            ("cache_misses", json!(40)),
            ("api_calls_total", json!(12)),
            ("api_calls_successful", json!(9)),
            ("api_calls_failed", json!(3)),
            ("rate_limit_hits", json!(1)),
            ("cymru_calls", json!(10)),
            ("cymru_failures", json!(1)),
            ("spur_calls", json!(2)),
            ("spur_failures", json!(2)),
            ("maxmind_hits", json!(30)),
            ("cymru_hits", json!(5)),
            ("batches_processed", json!(7)),
            ("last_enrichment_time", json!("2000-01-02T00:00:00.500000+00:00")),
        ] {
            assert_eq!(phase.metrics[key], expected, "{key}");
        }
        assert_eq!(phase.checkpoint, json!({ "source": "two", "offset": 6, "batch_index": 7 }));
        assert_eq!(
            phase.dead_letter,
            json!({ "total": 2, "last_reason": "connection refused", "last_source": "spur",
                    "last_updated": "2000-01-01T00:00:02.000000+00:00" })
        );
    }

    #[test]
    fn before_anything_happened_there_is_no_checkpoint_and_no_dead_letter() {
        let failure = Failure {
            provider: "spur",
            reason: "it was tried again since".into(),
            at: Timestamp::from_micros(1),
        };
        let phase = enrichment(&[], Some(&failure));
        assert_eq!((&phase.checkpoint, &phase.dead_letter), (&json!({}), &json!({ "total": 0 })));
        assert_eq!(phase.metrics["asn_records_created"], json!(0));
        assert_eq!(phase.metrics["last_enrichment_time"], Value::Null);
    }

    #[test]
    fn calls_say_how_far_they_are() {
        let running = Call {
            procedure: "backfill_sessions",
            database: "honeypot".into(),
            state: State::Running,
            step: "sessions".into(),
            batches: 3,
            done: 250,
            total: 1000,
            began: Timestamp::default(),
            step_began: Timestamp::from_micros(2_000_000),
            updated: Timestamp::from_micros(6_000_000),
        };
        let phase = call(&running);
        assert_eq!(phase.name, "snapshot_backfill");
        assert_eq!(phase.file(), "snapshot_backfill.json");
        for (key, expected) in [
            ("phase", json!("sessions")),
            ("state", json!("running")),
            ("batch", json!(3)),
            ("sessions_processed", json!(250)),
            ("total_sessions", json!(1000)),
            ("percent_complete", json!(25)),
            ("sessions_per_second", json!(62.5)),
            ("elapsed_seconds", json!(6)),
            ("failed_batches", json!(0)),
        ] {
            assert_eq!(phase.metrics[key], expected, "{key}");
        }
        assert_eq!(phase.checkpoint, json!({ "source": "honeypot", "offset": 250, "batch_index": 3 }));
        let more = Call { done: 1500, procedure: "refresh_stale", state: State::Complete, ..running };
        assert_eq!(call(&more).name, "enrichment_refresh");
        assert_eq!(call(&more).metrics["percent_complete"], json!(100));
        assert_eq!(call(&more).metrics["state"], json!("complete"));
    }

    #[test]
    fn a_finished_call_has_done_everything_that_was_due() {
        for (done, total) in [(0, 0), (1, 1000), (618, 632), (1500, 1000)] {
            let finished = Call {
                procedure: "refresh_stale",
                database: "honeypot".into(),
                state: State::Complete,
                step: "cymru".into(),
                batches: 1,
                done,
                total,
                began: Timestamp::default(),
                step_began: Timestamp::default(),
                updated: Timestamp::from_micros(1),
            };
            let metrics = call(&finished).metrics;
            assert_eq!(metrics["percent_complete"], json!(100), "{done} of {total}");
            assert_eq!(metrics["ips_total"], json!(done), "{done} of {total}");
        }
    }

    #[test]
    fn aggregate_holds_what_the_phases_files_hold() {
        let phase = enrichment(&families(), None);
        let whole = Value::Object(aggregate(std::slice::from_ref(&phase), Timestamp::default()));
        let mut entry = whole["phases"][ENRICHMENT].as_object().expect("an object").clone();
        assert_eq!(entry.remove("status_file"), Some(json!("enrichment.json")));
        assert_eq!(entry, phase.document(Timestamp::default()));
        assert_eq!(whole["last_updated"], json!("2000-01-01T00:00:00.000000+00:00"));
    }
}
