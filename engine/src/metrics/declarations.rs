//! Declares all metric families.
//!
//! docs/metrics.md describes each metric family, and a test compares this page with the declarations. Users requested the families
//! `asn_inventory.*` and chose their names. Prometheus gets different names for these families, because `promtool check metrics`
//! rejects some of the requested names. Some of them contain an abbreviated unit. Others end in `_count`, although the family is
//! not a histogram.

use super::{Declared, Kind};

/// Bucket bounds of `asn_inventory.operation_duration_ms`, in milliseconds. Users requested the higher bounds. The lower bounds
/// were added, because the operations take microseconds.
pub const OPERATION_MS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Bucket bounds for the duration of requests to providers, in seconds. The lowest bounds are for a server in the same network. The
/// highest bound is the longest timeout that a setting allows.
pub const REQUEST_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];

/// Bounds of the number of lookups in one request.
pub const BATCH_ADDRESSES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// Bucket bounds for the duration of the trigger, in seconds. If the address is cached, the trigger takes microseconds. If a commit
/// waits for another commit, it waits at most 0.3 s.
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
        => "Networks added to asn_inventory, by source, country and registry";
    RECORDS_UPDATED: Counter "asn_inventory.records_updated" as "asn_inventory_records_updated_total" in "{network}"
        by ["source", "update_type"]
        => "Updates of networks in asn_inventory, by source and by changed data: metadata, or first_seen and last_seen";
    TOTAL_COUNT: Gauge "asn_inventory.total_count" as "asn_inventory_size" in "{network}" by ["database"]
        => "Rows in asn_inventory, one for each network";
    UNIQUE_SEEN: Gauge "asn_inventory.unique_seen" as "asn_inventory_unique_seen" in "{network}" by []
        => "Distinct networks created or updated since the counters were reset; estimated, standard error 0.4 %";
    OPERATION_DURATION: Histogram "asn_inventory.operation_duration_ms" as "asn_inventory_operation_duration_seconds" in "ms"
        by ["operation"]
        => "Processor time to create or update one network, excluding waits for locks and disks";
    PENDING_NETWORKS: Gauge "enrich.reclassifications_pending" as "enrich_reclassifications_pending" in "{network}"
        by ["database"]
        => "Networks whose row in known_networks was edited, and whose type in asn_inventory is not updated yet";
    PENDING_COUNTS_AGE: Gauge "enrich.pending_counts_oldest_age" as "enrich_pending_counts_oldest_age_seconds" in "s"
        by ["database"]
        => "Longest time for which a count of sessions or addresses has waited to be added to the inventories; 0 if no count waits";
    COUNTS_LOST: Counter "enrich.session_counts_lost" as "enrich_session_counts_lost_total" in "{session}" by []
        => "Sessions that were stored but could not be counted at commit; the worker then recounts all sessions";
    RECOUNT_OLDEST_AGE: Gauge "enrich.recount_oldest_age" as "enrich_recount_oldest_age_seconds" in "s" by ["database"]
        => "Age of the oldest request to recount all sessions; 0 if there is none";

    ADDRESSES: Counter "enrich.addresses" as "enrich_addresses_total" in "{address}" by []
        => "Addresses that were looked up, for sessions and for function calls";
    LOOKUPS: Counter "enrich.lookups" as "enrich_lookups_total" in "{address}" by ["result"]
        => "Addresses for which data was found, by origin of the data: the inventory, the mmdb files or a provider";
    WITHOUT_ADDRESS: Counter "enrich.sessions_without_address" as "enrich_sessions_without_address_total" in "{session}" by []
        => "Sessions stored without a valid address; the extension does not count these sessions, and leaves their snapshot columns null";
    ERRORS: Counter "enrich.errors" as "enrich_errors_total" in "{error}" by []
        => "Internal errors after which the session or call continued; see the server log";
    TRIGGER_DURATION: Histogram "enrich.trigger_duration" as "enrich_trigger_duration_seconds" in "s" by ["event"]
        => "Time that the extension's triggers take before and after a session is stored, and at commit; includes waits; measured for a sample of sessions";

    PROVIDER_REQUESTS: Counter "enrich.provider_requests" as "enrich_provider_requests_total" in "{request}"
        by ["provider", "outcome"]
        => "Finished requests to a provider, by outcome";
    PROVIDER_LOOKUPS: Counter "enrich.provider_lookups" as "enrich_provider_lookups_total" in "{lookup}"
        by ["provider"]
        => "Lookups sent to a provider; one request may contain several lookups";
    PROVIDER_ANSWERS: Counter "enrich.provider_answers" as "enrich_provider_answers_total" in "{address}"
        by ["provider", "result"]
        => "Stored answers of a provider, by result: value (the provider has data) or absent (the provider has no data)";
    PROVIDER_SHARED: Counter "enrich.provider_shared_answers" as "enrich_provider_shared_answers_total" in "{address}"
        by ["provider"]
        => "Addresses whose answer came from the lookup of another address in the same prefix";
    PROVIDER_UNANSWERED: Counter "enrich.provider_unanswered" as "enrich_provider_unanswered_total" in "{lookup}"
        by ["provider", "reason"]
        => "Lookups without an answer: missing from the provider's reply, or refused by the provider";
    PROVIDER_DROPPED: Counter "enrich.provider_dropped_rows" as "enrich_provider_dropped_rows_total" in "{row}"
        by ["provider", "reason"]
        => "Dropped rows in replies of a provider: not requested, malformed, or too long";
    PROVIDER_DEAD_LETTERS: Counter "enrich.provider_dead_letters" as "enrich_provider_dead_letters_total" in "{address}"
        by ["provider"]
        => "Lookups that became dead letters, because they failed max_attempts times";
    PROVIDER_DURATION: Histogram "enrich.provider_request_duration" as "enrich_provider_request_duration_seconds" in "s"
        by ["provider"]
        => "Duration of one request to a provider";
    PROVIDER_BATCH: Histogram "enrich.provider_batch_size" as "enrich_provider_batch_size" in "{lookup}" by ["provider"]
        => "Number of lookups in one request to a provider";
    PROVIDER_IN_FLIGHT: Gauge "enrich.provider_in_flight" as "enrich_provider_in_flight" in "{request}" by ["provider"]
        => "Requests to a provider that are under way, in all databases";
    PROVIDER_QUOTA: Gauge "enrich.provider_quota" as "enrich_provider_quota" in "{request}" by ["provider"]
        => "Number of requests per day (UTC) that the quota of the provider allows; not shown if the provider has no quota";
    PROVIDER_QUOTA_LEFT: Gauge "enrich.provider_quota_left" as "enrich_provider_quota_left" in "{request}" by ["provider"]
        => "Requests to a provider that are still allowed today (UTC)";
    PROVIDER_ENABLED: Gauge "enrich.provider_enabled" as "enrich_provider_enabled" in "1" by ["provider"]
        => "1 if the provider is enabled and fully configured, else 0";
    PROVIDER_BREAKER: Gauge "enrich.provider_breaker_state" as "enrich_provider_breaker_state" in "1" by ["provider"]
        => "State of a provider's circuit breaker: 0 closed, 1 half-open, 2 open";
    PROVIDER_FAILURES: Gauge "enrich.provider_failures" as "enrich_provider_failures" in "{request}" by ["provider"]
        => "Consecutive failed requests to a provider";
    PROVIDER_STOPPED: Gauge "enrich.provider_stopped" as "enrich_provider_stopped" in "1" by ["provider"]
        => "1 while no requests are sent to a provider because the provider refused the key, else 0";
    PROVIDER_BACKOFF_UNTIL: Gauge "enrich.provider_backoff_until" as "enrich_provider_backoff_until_timestamp_seconds" in "s"
        by ["provider"]
        => "Unix time until which no requests are sent to a provider; 0 if there is no pause";
    PROVIDER_LAST_SUCCESS: Gauge "enrich.provider_last_success" as "enrich_provider_last_success_timestamp_seconds" in "s"
        by ["provider"]
        => "Unix time of the last request that a provider answered; 0 if there is none";

    QUEUE_DEPTH: Gauge "enrich.queue_depth" as "enrich_queue_depth" in "{lookup}" by ["database", "provider", "state"]
        => "Lookups in the queue, by state: requested (no job yet), due (can be sent now), leased (reserved by the worker), or delayed (waits after a failure)";
    QUEUE_ADDRESSES: Gauge "enrich.queue_addresses" as "enrich_queue_addresses" in "{address}" by ["database", "provider"]
        => "Addresses that wait for the answer to a job in the queue";
    QUEUE_OLDEST_AGE: Gauge "enrich.queue_oldest_age" as "enrich_queue_oldest_age_seconds" in "s"
        by ["database", "provider"]
        => "Age of the oldest lookup in the queue; 0 if there is none";
    QUEUE_DEAD_LETTERS: Gauge "enrich.queue_dead_letters" as "enrich_queue_dead_letters" in "{address}"
        by ["database", "provider"]
        => "Rows in dead_letter: lookups that failed max_attempts times";

    MMDB_BUILD_AGE: Gauge "enrich.mmdb_build_age" as "enrich_mmdb_build_age_seconds" in "s" by ["kind", "file", "vendor"]
        => "Time since the loaded mmdb file was built";
    MMDB_LOADED: Gauge "enrich.mmdb_loaded" as "enrich_mmdb_loaded_timestamp_seconds" in "s" by ["kind", "file", "vendor"]
        => "Unix time when the mmdb file was loaded";
    MMDB_IN_SERVICE: Gauge "enrich.mmdb_in_service" as "enrich_mmdb_in_service" in "1" by ["kind", "file"]
        => "1 if the mmdb file that a setting names is loaded, else 0";
    MMDB_TOO_OLD: Gauge "enrich.mmdb_too_old" as "enrich_mmdb_too_old" in "1" by ["kind", "file"]
        => "1 if the mmdb file that a setting names is not used because it is older than mmdb_max_age, else 0";

    IP_TYPE_FILES: Gauge "enrich.ip_type_files" as "enrich_ip_type_files" in "{file}" by ["state"]
        => "Configured mmdb files of ip_type_databases, by state: loaded or missing";
    IP_TYPE_LISTS: Gauge "enrich.ip_type_lists" as "enrich_ip_type_lists" in "{list}" by ["state"]
        => "Lists in the loaded files of ip_type_databases, by state: usable, or stale (older than ip_type_max_age allows)";
    IP_TYPE_LIST_AGE: Gauge "enrich.ip_type_list_age" as "enrich_ip_type_list_age_seconds" in "s" by ["list", "type"]
        => "Time since the list was published";

    LAUNCHER_UP: Gauge "enrich.launcher_up" as "enrich_launcher_up" in "1" by []
        => "1 while the launcher, which starts the workers, runs, else 0";
    STANDBY: Gauge "enrich.server_standby" as "enrich_server_standby" in "1" by []
        => "1 while the server is a standby, else 0; no worker runs on a standby";
    EXPORTER_UP: Gauge "enrich.exporter_up" as "enrich_exporter_up" in "1" by []
        => "1 while the exporter of metrics runs, else 0";
    EXPORTS: Counter "enrich.exports" as "enrich_exports_total" in "{export}" by ["exporter"]
        => "Successful exports of metrics: a scrape served, status files written, or a request accepted by a collector";
    EXPORT_FAILURES: Counter "enrich.export_failures" as "enrich_export_failures_total" in "{export}" by ["exporter"]
        => "Failed exports of metrics; see the server log for the reasons";
    OTLP_REQUESTS: Counter "enrich.otlp_requests" as "enrich_otlp_requests_total" in "{request}" by ["signal", "outcome"]
        => "Requests to the OpenTelemetry collector, by the answer: accepted, deferred or refused";
    OTLP_ITEMS: Counter "enrich.otlp_items" as "enrich_otlp_items_total" in "{item}" by ["signal", "result"]
        => "Data points and spans for the OpenTelemetry collector: accepted, rejected, or dropped before sending";
    WORKER_UP: Gauge "enrich.worker_up" as "enrich_worker_up" in "1" by ["database"]
        => "1 while the worker of a database runs, 0 if the worker should run but does not run";
    WORKER_HEARTBEAT_AGE: Gauge "enrich.worker_heartbeat_age" as "enrich_worker_heartbeat_age_seconds" in "s"
        by ["database"]
        => "Time since the worker last began a step of its loop; normally at most worker_naptime";
    WORKER_BATCHES: Counter "enrich.worker_batches" as "enrich_worker_batches_total" in "{batch}" by ["database"]
        => "Batches of answers that the worker has stored";
    WORKER_ERRORS: Counter "enrich.worker_errors" as "enrich_worker_errors_total" in "{error}" by ["database"]
        => "Steps of the worker that failed and were rolled back";
    WORKER_STEP_ERRORS: Counter "enrich.worker_step_errors" as "enrich_worker_step_errors_total" in "{error}"
        by ["database", "step"]
        => "Failed steps of the worker and of the processes that run code of table owners; each failed step was rolled back";
    WORKER_NAPTIMES: Counter "enrich.worker_naptimes" as "enrich_worker_naptimes_total" in "{naptime}" by ["database"]
        => "Number of full sleeps (naptimes) of the worker: the time slept, divided by worker_naptime";
    COMPLETIONS_PENDING: Gauge "enrich.completions_pending" as "enrich_completions_pending" in "{address}" by ["database"]
        => "Addresses whose sessions have null snapshot columns that can be filled now; an address counts once for each session table";
    COMPLETION_OLDEST_AGE: Gauge "enrich.completion_oldest_age" as "enrich_completion_oldest_age_seconds" in "s"
        by ["database"]
        => "Longest time for which a session has had null snapshot columns that can be filled; 0 if there is no such session";
    ERASURES_FAILED: Gauge "enrich.erasures_failed" as "enrich_erasures_failed" in "{call}" by ["database"]
        => "Calls of erase_address() and expire_addresses() that failed or were killed, and were not repeated";
    EXPIRY_SCHEDULED: Gauge "enrich.expiry_scheduled" as "enrich_expiry_scheduled" in "1" by ["database"]
        => "1 if an active job of pg_cron in the database calls expire_addresses(), else 0";
    EXPIRY_LAST_SUCCESS: Gauge "enrich.expiry_last_success" as "enrich_expiry_last_success_timestamp_seconds" in "s"
        by ["database"]
        => "Unix time of the last complete call of expire_addresses() for all tables; 0 if there is none";
    SUSPENDED_OWNERS: Gauge "enrich.suspended_owners" as "enrich_suspended_owners" in "{role}" by ["database"]
        => "Suspended owners of session tables; the extension runs no code of these roles until resume_owner() is called; see suspended_owner";
    ABANDONED_PROCESSES: Gauge "enrich.owner_processes_abandoned" as "enrich_owner_processes_abandoned" in "{process}"
        by ["database"]
        => "Processes that still run code of a table owner after the code was cancelled; while three such processes exist, the worker starts no further process for code of table owners";
    LAUNCH_FAILURES: Counter "enrich.owner_process_launch_failures" as "enrich_owner_process_launch_failures_total"
        in "{process}" by ["database"]
        => "Failed starts of processes for code of table owners, because max_worker_processes was reached";
    UNSAFE_FOREIGN_KEYS: Gauge "enrich.unsafe_foreign_keys" as "enrich_unsafe_foreign_keys" in "{key}" by ["database"]
        => "Foreign keys that can run code as the extension's owner; any such key stops the worker; see the view unsafe_foreign_keys";
    CITUS_COUNTS_COLLECTED: Counter "enrich.citus_counts_collected" as "enrich_citus_counts_collected_total" in "{count}"
        by ["database"]
        => "Counts that the worker has collected from the nodes of a Citus cluster";
    CITUS_COLLECTION_FAILURES: Counter "enrich.citus_collection_failures" as "enrich_citus_collection_failures_total"
        in "{attempt}" by ["database"]
        => "Failed attempts of the worker to collect counts from a node of a Citus cluster";
    CITUS_NODES_FAILED: Gauge "enrich.citus_nodes_failed" as "enrich_citus_nodes_failed" in "{node}" by ["database"]
        => "Nodes of a Citus cluster whose counts could not be collected in the last attempt; see last_error in cluster_node";
    CITUS_COLLECTION_OLDEST_AGE: Gauge "enrich.citus_collection_oldest_age" as "enrich_citus_collection_oldest_age_seconds"
        in "s" by ["database"]
        => "Longest time since the counts of a node of a Citus cluster were last collected; 0 if the database collects no counts";
    TABLES_NOT_INTACT: Gauge "enrich.attached_tables_not_intact" as "enrich_attached_tables_not_intact" in "{table}"
        by ["database"]
        => "Session tables that have changed since they were attached; see not_intact_reason in attached_tables";
}
