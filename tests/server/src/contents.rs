//! Everything of ours that a database holds, row by row, for comparing one with another.

use crate::session::Session;

/// The extension's tables and both hosts'. Without `procedure_call`, which is about this server's processes.
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

/// Tables that are empty, for tests that mean to fill all.
pub fn empty_tables(session: &mut Session) -> Vec<&'static str> {
    TABLES.into_iter().filter(|table| session.number(&format!("SELECT count(*) FROM {table}")) == 0).collect()
}
