//! Declares all metric families.
//!
//! docs/metrics.md describes each family, and a test compares the two. The users who requested the families
//! `asn_inventory.*` chose their names. Where `promtool check metrics` rejects such a name (an abbreviated unit, or
//! `_count` after the name of a family that is not a histogram), Prometheus gets a different one.

use super::{Declared, Kind};

/// Bounds of `asn_inventory.operation_duration_ms` in milliseconds: the requested ones, and finer ones below, because
/// these operations take microseconds.
pub const OPERATION_MS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Bounds of requests to providers in seconds, from a server in the same network to the longest time that a setting
/// allows.
pub const REQUEST_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];

/// Bounds of the number of lookups in one request.
pub const BATCH_ADDRESSES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// Bounds of the trigger's time in seconds. A cached address takes microseconds. A commit that waits for another one
/// takes at most 0.3 s.
pub const TRIGGER_SECONDS: &[f64] = &[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001,
    0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
];

macro_rules! families {
    ($($family:ident: $kind:ident $name:literal as $prometheus:literal in $unit:literal by $labels:expr => $help:literal;)*) => {
        $(pub static $family: Declared = Declared {
            name: $name, prometheus: $prometheus, kind: Kind::$kind, unit: $unit, help: $help, labels: &$labels,
        };)*
        /// All families, in the order of output.
        pub static ALL: &[&Declared] = &[$(&$family),*];
    };
}

families! {
    RECORDS_CREATED: Counter "asn_inventory.records_created" as "asn_inventory_records_created_total" in "{network}"
        by ["source", "country", "rir"]
        => "Networks created, by who named them, their country and their registry";
    RECORDS_UPDATED: Counter "asn_inventory.records_updated" as "asn_inventory_records_updated_total" in "{network}"
        by ["source", "update_type"]
        => "Networks updated: their metadata, or the times when they were seen";
    TOTAL_COUNT: Gauge "asn_inventory.total_count" as "asn_inventory_size" in "{network}" by ["database"]
        => "Networks in asn_inventory";
    OPERATION_DURATION: Histogram "asn_inventory.operation_duration_ms" as "asn_inventory_operation_duration_seconds" in "ms"
        by ["operation"]
        => "Processor time of creating or updating one network, without waiting for locks or disks";
    PENDING_NETWORKS: Gauge "enrich.reclassifications_pending" as "enrich_reclassifications_pending" in "{network}"
        by ["database"]
        => "Networks that an edit of known_networks concerns and that are not reclassified yet";
    PENDING_COUNTS_AGE: Gauge "enrich.pending_counts_oldest_age" as "enrich_pending_counts_oldest_age_seconds" in "s"
        by ["database"]
        => "Age of the oldest count of sessions or addresses that is not folded yet; 0 if there is none";
    COUNTS_LOST: Counter "enrich.session_counts_lost" as "enrich_session_counts_lost_total" in "{session}" by []
        => "Sessions that their commit could not count, so that a recount follows";
    RECOUNT_OLDEST_AGE: Gauge "enrich.recount_oldest_age" as "enrich_recount_oldest_age_seconds" in "s" by ["database"]
        => "Age of the oldest request for a recount; 0 if there is none";

    ADDRESSES: Counter "enrich.addresses" as "enrich_addresses_total" in "{address}" by []
        => "Addresses that sessions and calls asked the cascade about";
    LOOKUPS: Counter "enrich.lookups" as "enrich_lookups_total" in "{address}" by ["result"]
        => "Answers by where they came from: the inventory, the mmdb files, a provider";
    WITHOUT_ADDRESS: Counter "enrich.sessions_without_address" as "enrich_sessions_without_address_total" in "{session}" by []
        => "Sessions stored without a valid address: they have no snapshot and are not counted";
    ERRORS: Counter "enrich.errors" as "enrich_errors_total" in "{error}" by []
        => "Errors that were no caller's fault and failed no caller; the server's log has them";
    TRIGGER_DURATION: Histogram "enrich.trigger_duration" as "enrich_trigger_duration_seconds" in "s" by ["event"]
        => "Time that sessions spend in the trigger, waiting included; a sample of the firings";

    PROVIDER_REQUESTS: Counter "enrich.provider_requests" as "enrich_provider_requests_total" in "{request}"
        by ["provider", "outcome"]
        => "Requests to a provider that have ended, by how";
    PROVIDER_QUESTIONS: Counter "enrich.provider_questions" as "enrich_provider_questions_total" in "{question}"
        by ["provider"]
        => "Questions put to a provider, several in one request where it takes that";
    PROVIDER_ANSWERS: Counter "enrich.provider_answers" as "enrich_provider_answers_total" in "{address}"
        by ["provider", "result"]
        => "Answers that were written down: a value, or that there is nothing";
    PROVIDER_SHARED: Counter "enrich.provider_shared_answers" as "enrich_provider_shared_answers_total" in "{address}"
        by ["provider"]
        => "Those of the answers that served an address without a question of its own";
    PROVIDER_UNANSWERED: Counter "enrich.provider_unanswered" as "enrich_provider_unanswered_total" in "{question}"
        by ["provider", "reason"]
        => "Questions that a request left without an answer, or that the provider refused";
    PROVIDER_DROPPED: Counter "enrich.provider_dropped_rows" as "enrich_provider_dropped_rows_total" in "{row}"
        by ["provider", "reason"]
        => "Rows of answers that were dropped: not asked for, without sense, too long";
    PROVIDER_DEAD_LETTERS: Counter "enrich.provider_dead_letters" as "enrich_provider_dead_letters_total" in "{address}"
        by ["provider"]
        => "Lookups that failed for good and became dead letters";
    PROVIDER_DURATION: Histogram "enrich.provider_request_duration" as "enrich_provider_request_duration_seconds" in "s"
        by ["provider"]
        => "Time from the beginning of a request to its end";
    PROVIDER_BATCH: Histogram "enrich.provider_batch_size" as "enrich_provider_batch_size" in "{question}" by ["provider"]
        => "Questions in one request";
    PROVIDER_IN_FLIGHT: Gauge "enrich.provider_in_flight" as "enrich_provider_in_flight" in "{request}" by ["provider"]
        => "Requests under way, of all databases";
    PROVIDER_QUOTA: Gauge "enrich.provider_quota" as "enrich_provider_quota" in "{request}" by ["provider"]
        => "Requests allowed per day (UTC); none where there is no limit";
    PROVIDER_QUOTA_LEFT: Gauge "enrich.provider_quota_left" as "enrich_provider_quota_left" in "{request}" by ["provider"]
        => "What is left of them today";
    PROVIDER_ENABLED: Gauge "enrich.provider_enabled" as "enrich_provider_enabled" in "1" by ["provider"]
        => "1 if the settings have the provider asked, else 0";
    PROVIDER_BREAKER: Gauge "enrich.provider_breaker_state" as "enrich_provider_breaker_state" in "1" by ["provider"]
        => "State of the circuit breaker: 0 closed, 1 half-open, 2 open";
    PROVIDER_FAILURES: Gauge "enrich.provider_failures" as "enrich_provider_failures" in "{request}" by ["provider"]
        => "Requests that failed in a row";
    PROVIDER_STOPPED: Gauge "enrich.provider_stopped" as "enrich_provider_stopped" in "1" by ["provider"]
        => "1 while the provider is not asked because it refused the key, else 0";
    PROVIDER_BACKOFF_UNTIL: Gauge "enrich.provider_backoff_until" as "enrich_provider_backoff_until_timestamp_seconds" in "s"
        by ["provider"]
        => "Unix time before which the provider is not asked; 0 if it may be asked now";
    PROVIDER_LAST_SUCCESS: Gauge "enrich.provider_last_success" as "enrich_provider_last_success_timestamp_seconds" in "s"
        by ["provider"]
        => "Unix time of the last request that was answered; 0 if none was";

    QUEUE_DEPTH: Gauge "enrich.queue_depth" as "enrich_queue_depth" in "{lookup}" by ["database", "provider", "state"]
        => "The queue: requests that were not taken in yet, and jobs that are due, leased to the worker, or delayed";
    QUEUE_ADDRESSES: Gauge "enrich.queue_addresses" as "enrich_queue_addresses" in "{address}" by ["database", "provider"]
        => "Addresses that wait for the answers to jobs";
    QUEUE_OLDEST_AGE: Gauge "enrich.queue_oldest_age" as "enrich_queue_oldest_age_seconds" in "s"
        by ["database", "provider"]
        => "Age of the oldest request or job; 0 if there is none";
    QUEUE_DEAD_LETTERS: Gauge "enrich.queue_dead_letters" as "enrich_queue_dead_letters" in "{address}"
        by ["database", "provider"]
        => "Rows of dead_letter";

    MMDB_BUILD_AGE: Gauge "enrich.mmdb_build_age" as "enrich_mmdb_build_age_seconds" in "s" by ["kind"]
        => "Age of the build of the mmdb file in service";
    MMDB_LOADED: Gauge "enrich.mmdb_loaded" as "enrich_mmdb_loaded_timestamp_seconds" in "s" by ["kind"]
        => "Unix time when the mmdb file in service was put there";

    LAUNCHER_UP: Gauge "enrich.launcher_up" as "enrich_launcher_up" in "1" by []
        => "1 while the launcher runs, else 0";
    STANDBY: Gauge "enrich.server_standby" as "enrich_server_standby" in "1" by []
        => "1 while the server is a standby, where no worker runs, else 0";
    EXPORTER_UP: Gauge "enrich.exporter_up" as "enrich_exporter_up" in "1" by []
        => "1 while the exporter runs, else 0";
    EXPORTS: Counter "enrich.exports" as "enrich_exports_total" in "{export}" by ["exporter"]
        => "Times that metrics were handed on: a scrape served, the status files written, a request taken by a collector";
    EXPORT_FAILURES: Counter "enrich.export_failures" as "enrich_export_failures_total" in "{export}" by ["exporter"]
        => "Times that metrics could not be handed on; the server's log has the reasons";
    OTLP_REQUESTS: Counter "enrich.otlp_requests" as "enrich_otlp_requests_total" in "{request}" by ["signal", "outcome"]
        => "Requests to the OpenTelemetry collector, by its answer: taken, to be sent again later, refused";
    OTLP_ITEMS: Counter "enrich.otlp_items" as "enrich_otlp_items_total" in "{item}" by ["signal", "result"]
        => "Data points and spans for the collector: taken, rejected by it, or dropped before";
    WORKER_UP: Gauge "enrich.worker_up" as "enrich_worker_up" in "1" by ["database"]
        => "1 while the worker of a database runs, 0 if it is to run and does not, for example without a slot";
    WORKER_HEARTBEAT_AGE: Gauge "enrich.worker_heartbeat_age" as "enrich_worker_heartbeat_age_seconds" in "s"
        by ["database"]
        => "Time since the worker last began a step; it does at least every worker_naptime";
    WORKER_BATCHES: Counter "enrich.worker_batches" as "enrich_worker_batches_total" in "{batch}" by ["database"]
        => "Batches of answers that the worker has written down";
    WORKER_ERRORS: Counter "enrich.worker_errors" as "enrich_worker_errors_total" in "{error}" by ["database"]
        => "Steps of the worker that failed and were rolled back";
    WORKER_STEP_ERRORS: Counter "enrich.worker_step_errors" as "enrich_worker_step_errors_total" in "{error}"
        by ["database", "step"]
        => "Steps of the worker and of its owner processes that failed and were rolled back, by kind of step";
    WORKER_NAPTIMES: Counter "enrich.worker_naptimes" as "enrich_worker_naptimes_total" in "{naptime}" by ["database"]
        => "Time that the worker slept with nothing under way, in units of worker_naptime";
    COMPLETIONS_PENDING: Gauge "enrich.completions_pending" as "enrich_completions_pending" in "{address}" by ["database"]
        => "Pairs of address and table whose sessions can be completed and are not yet";
    COMPLETION_OLDEST_AGE: Gauge "enrich.completion_oldest_age" as "enrich_completion_oldest_age_seconds" in "s"
        by ["database"]
        => "Time since the oldest of them became so; 0 if there is none";
    SUSPENDED_OWNERS: Gauge "enrich.suspended_owners" as "enrich_suspended_owners" in "{role}" by ["database"]
        => "Owners of session tables whose code is not run until resume_owner() is called";
    ABANDONED_PROCESSES: Gauge "enrich.owner_processes_abandoned" as "enrich_owner_processes_abandoned" in "{process}"
        by ["database"]
        => "Processes whose code of a table owner did not end after it was cancelled; with three no other is started";
    LAUNCH_FAILURES: Counter "enrich.owner_process_launch_failures" as "enrich_owner_process_launch_failures_total"
        in "{process}" by ["database"]
        => "Processes for code of table owners that could not be started, because max_worker_processes was reached";
    UNSAFE_FOREIGN_KEYS: Gauge "enrich.unsafe_foreign_keys" as "enrich_unsafe_foreign_keys" in "{key}" by ["database"]
        => "Foreign keys to tables of the extension that can run code as its owner; the worker works only while there are none";
    TABLES_NOT_INTACT: Gauge "enrich.attached_tables_not_intact" as "enrich_attached_tables_not_intact" in "{table}"
        by ["database"]
        => "Attached tables that are not as they were attached";
}
