//! cowrie_enrich: attribution for honeypot sessions inside PostgreSQL.
//!
//! The entry points of SQL statements are in [`api`] (functions), [`procedures`], and [`session`] (the trigger, and the steps at
//! the end of a transaction). The entry points of the background processes are in [`worker`], [`owner`] and [`exporter`]. All these
//! modules use [`store`] (all SQL), [`mmdb`] (the mmdb files), [`provider`] (the providers and their limits), [`document`] and
//! [`telemetry`]. Those five modules use [`shared_state`] and [`pg`]. All unsafe code is in [`pg`]. The crate `engine` has all code
//! that does not need PostgreSQL.

pgrx::pg_module_magic!(name, version);

mod api;
mod document;
mod error;
mod exporter;
mod guc;
mod mmdb;
mod owner;
mod pg;
mod procedures;
mod provider;
mod session;
mod shared_state;
mod store;
mod telemetry;
mod versions;
mod worker;
mod xact;

/// Environment variable for developers. If the server's environment sets this variable to 1, then `RUST_BACKTRACE` adds backtraces
/// to the DETAIL of errors.
const BACKTRACES: &str = "COWRIE_ENRICH_BACKTRACE";

/// Called once per process, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if std::env::var_os(BACKTRACES).is_none_or(|value| value != "1") {
        // Replaces the panic hook of pgrx. If RUST_BACKTRACE is set, the hook of pgrx sends backtraces to clients.
        cowrie_enrich_engine::panics::report_in_one_line();
    }
    guc::define();
    if shared_state::request() {
        worker::register();
    }
    worker::registry::listen();
    xact::register();
}

pgrx::extension_sql_file!("../sql/install/10_lookup.sql", name = "lookup", bootstrap);
pgrx::extension_sql_file!("../sql/install/20_tables.sql", name = "tables", requires = ["lookup"]);
pgrx::extension_sql_file!("../sql/install/30_networks.sql", name = "networks", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/install/35_queue.sql", name = "queue", requires = ["networks"]);
pgrx::extension_sql_file!(
    "../sql/install/40_session_triggers.sql",
    name = "session_triggers",
    requires = ["queue"]
);
pgrx::extension_sql_file!(
    "../sql/install/41_session_table_option.sql",
    name = "session_table_option",
    requires = ["session_triggers"]
);
pgrx::extension_sql_file!(
    "../sql/install/42_blocked_session_tables.sql",
    name = "blocked_session_tables",
    requires = ["session_table_option"]
);
pgrx::extension_sql_file!(
    "../sql/install/43_attached_tables.sql",
    name = "attached_tables",
    requires = ["blocked_session_tables"]
);
pgrx::extension_sql_file!(
    "../sql/install/44_session_address.sql",
    name = "session_address",
    requires = ["attached_tables"]
);
pgrx::extension_sql_file!(
    "../sql/install/45_lock_session_table.sql",
    name = "lock_session_table",
    requires = ["session_address"]
);
pgrx::extension_sql_file!(
    "../sql/install/46_attach_session_table.sql",
    name = "attach_session_table",
    requires = ["lock_session_table"]
);
pgrx::extension_sql_file!(
    "../sql/install/47_session_priority.sql",
    name = "session_priority",
    requires = ["attach_session_table"]
);
pgrx::extension_sql_file!(
    "../sql/install/48_fold_statistics.sql",
    name = "fold_statistics",
    requires = ["session_priority"]
);
pgrx::extension_sql_file!(
    "../sql/install/49_completions.sql",
    name = "completions",
    requires = ["fold_statistics"]
);
pgrx::extension_sql_file!(
    "../sql/install/50_enrich_stats.sql",
    name = "statistics",
    requires = ["completions"]
);
pgrx::extension_sql_file!(
    "../sql/install/52_address_types.sql",
    name = "address_types",
    requires = ["statistics"]
);
pgrx::extension_sql_file!("../sql/install/60_worker.sql", name = "worker", requires = ["address_types"]);
pgrx::extension_sql_file!("../sql/install/62_metrics.sql", name = "metrics", requires = ["worker"]);
pgrx::extension_sql_file!("../sql/install/65_calls.sql", name = "calls", requires = ["metrics"]);
pgrx::extension_sql_file!("../sql/install/70_backfill.sql", name = "backfill", requires = ["calls"]);
pgrx::extension_sql_file!("../sql/install/72_refresh.sql", name = "refresh", requires = ["backfill"]);
pgrx::extension_sql_file!("../sql/install/74_import.sql", name = "import", requires = ["refresh"]);
pgrx::extension_sql_file!("../sql/install/75_lookup_ips.sql", name = "address_lists", requires = ["import"]);
pgrx::extension_sql_file!("../sql/install/76_analysis.sql", name = "analysis", requires = ["address_lists"]);
pgrx::extension_sql_file!("../sql/install/77_prefixes.sql", name = "prefixes", requires = ["analysis"]);
pgrx::extension_sql_file!("../sql/install/78_schedule.sql", name = "schedule", requires = ["prefixes"]);
pgrx::extension_sql_file!(
    "../sql/install/79_address_profile.sql",
    name = "address_profile",
    requires = ["schedule"]
);
pgrx::extension_sql_file!(
    "../sql/install/79_blocklist.sql",
    name = "blocklist",
    requires = ["address_profile"]
);
pgrx::extension_sql_file!("../sql/install/79_erase.sql", name = "erase", requires = ["blocklist"]);
pgrx::extension_sql_file!("../sql/install/80_versions.sql", name = "versions", requires = ["erase"]);
pgrx::extension_sql_file!("../sql/install/81_cluster.sql", name = "cluster", requires = ["versions"]);
pgrx::extension_sql_file!("../sql/install/82_restore.sql", name = "restore", requires = ["cluster"]);
pgrx::extension_sql_file!("../sql/install/84_keys.sql", name = "keys", requires = ["restore"]);
pgrx::extension_sql_file!("../sql/install/90_grants.sql", name = "grants", requires = ["keys"], finalize);
