//! Reads all rows of the extension and of both hosts' tables, to compare one database with another.

use crate::session::Session;

/// The tables of the extension and of both hosts. `procedure_call` is left out, because its rows are about processes of
/// this server.
pub const TABLES: [&str; 17] = [
    "enrich.asn_inventory",
    "enrich.ip_inventory",
    "enrich.ip_asn_history",
    "enrich.session_delta",
    "enrich.network_delta",
    "enrich.enrichment_request",
    "enrich.enrichment_job",
    "enrich.job_address",
    "enrich.dead_letter",
    "enrich.block_answer",
    "enrich.provider_quota",
    "enrich.known_networks",
    "enrich.session_priority",
    "enrich.session_table_option",
    "enrich.rejected_row",
    "sessions",
    "session_summaries",
];

pub fn contents(session: &mut Session) -> Vec<String> {
    let mut all = Vec::new();
    for table in TABLES {
        let rows = session.rows(&format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1"));
        all.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    all
}

/// Returns the tables that are empty, for tests that must fill all.
pub fn empty_tables(session: &mut Session) -> Vec<&'static str> {
    TABLES.into_iter().filter(|table| session.number(&format!("SELECT count(*) FROM {table}")) == 0).collect()
}
