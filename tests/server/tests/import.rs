//! An installation of the Python system is taken over: all that makes sense, once, whatever interrupts it, and with nobody's
//! rights but their own.

use server_tests::python_system::{self, Flavour, Size, checksums, sessions_checksum};
use server_tests::{Database, Session, database};

const SIZE: Size = Size { networks: 300, addresses: 5_000, sessions: 6_000 };
const IMPORT: &str = "CALL enrich.import_inventory('old')";

fn installation(flavour: Flavour, size: Size) -> Database<'static> {
    let mut db = database();
    python_system::create(&mut db, "old", flavour);
    python_system::fill(&mut db, "old", 7, size);
    db
}

/// What the last call reported, by name.
fn report(session: &mut Session, name: &str) -> i64 {
    session.number(&format!(
        "SELECT result -> '{name}' FROM enrich.procedure_call WHERE procedure = 'import_inventory' AND ended_at IS NOT NULL"
    ))
}

/// Everything of ours that an import writes, except for when it did.
fn contents(session: &mut Session) -> Vec<String> {
    [
        "SELECT to_jsonb(n) - 'updated_at' FROM enrich.asn_inventory n ORDER BY asn_number",
        "SELECT to_jsonb(i) - 'updated_at' FROM enrich.ip_inventory i ORDER BY ip_address",
        "SELECT to_jsonb(h) FROM enrich.ip_asn_history h ORDER BY ip_address, asn_number, observed_at",
        "SELECT to_jsonb(r) - 'rejected_at' FROM enrich.rejected_row r ORDER BY relation, row_key, reason",
        "SELECT to_jsonb(s) FROM old.session_summaries s ORDER BY session_id",
        "SELECT result - 'written' FROM enrich.procedure_call WHERE procedure = 'import_inventory'",
        "SELECT count(*) FROM enrich.network_delta",
    ]
    .iter()
    .flat_map(|query| session.rows(query))
    .collect()
}

#[test]
fn rows_that_make_sense_are_all_there_in_both_flavours() {
    for flavour in Flavour::ALL {
        let mut db = installation(flavour, SIZE);
        let before = (checksums(&mut db, "old"), sessions_checksum(&mut db, "old"));
        db.run(IMPORT);
        eprintln!("{flavour:?}: {:?}", db.rows("SELECT result FROM enrich.procedure_call"));
        let after = (checksums(&mut db, "enrich"), sessions_checksum(&mut db, "old"));
        assert_eq!(after, before, "{flavour:?}");
    }
}
