//! The registry of a network: from IANA's list of AS numbers when the network is created, until a source of
//! higher rank has it.

use server_tests::Session;
use server_tests::database::database;
use server_tests::hosts::COWRIE;
use server_tests::python_system::{self, PythonSchema};

const NETWORKS: &str = "SELECT asn_number, rir_registry, enrichment #>> '{provenance,rir_registry}'
                        FROM enrich.asn_inventory ORDER BY 1";

/// Inserts addresses as a restore does: no trigger fires, and no foreign key is checked.
fn restore_addresses(db: &mut Session, rows: &str) {
    db.run(&format!(
        "SET session_replication_role = replica;
         INSERT INTO enrich.ip_inventory (ip_address, current_asn, enrichment) {rows};
         RESET session_replication_role"
    ));
}

#[test]
fn a_network_of_a_session_has_its_registry_when_the_session_is_committed() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("123.123.123.1")), ("c", Some("45.0.0.1"))]));
    assert_eq!(db.rows(NETWORKS), ["4808|APNIC|iana", "15169|ARIN|iana", "4294967295|NULL|NULL"]);
}

#[test]
fn a_network_that_a_fold_creates_has_its_registry() {
    let mut db = database();
    db.run("INSERT INTO enrich.session_delta (ip_address, sessions) VALUES ('89.160.20.1', 1)");
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(db.rows(NETWORKS), ["29518|RIPE|iana"]);
}

#[test]
fn a_network_that_a_function_creates_has_its_registry_unless_the_caller_names_one() {
    let mut db = database();
    db.run(
        "SELECT enrich.enrich_ip('1.1.1.1');
         SELECT enrich.ensure_asn_inventory(24940);
         SELECT enrich.ensure_asn_inventory(3320, 'Deutsche Telekom', 'DE', 'ARIN');
         SELECT enrich.ensure_asn_inventory(64512, 'Private use')",
    );
    assert_eq!(
        db.rows(NETWORKS),
        ["3320|ARIN|manual", "13335|ARIN|iana", "24940|RIPE|iana", "64512|NULL|NULL"]
    );
    db.run("SELECT enrich.ensure_asn_inventory(24940, rir_registry => 'APNIC')");
    assert_eq!(db.rows(NETWORKS)[2], "24940|APNIC|manual");
}

#[test]
fn build_asn_inventory_uses_iana_only_where_no_document_has_the_registry() {
    let mut db = database();
    // Rows of older versions: 24940 has an address, 3320 has none, and 7922 has a registry.
    db.run(
        "INSERT INTO enrich.asn_inventory (asn_number, organization_name, rir_registry) VALUES
             (24940, 'Hetzner', NULL), (3320, 'Deutsche Telekom', NULL), (7922, 'Comcast', 'RIPE'), (64500, 'Example', NULL)",
    );
    restore_addresses(
        &mut db,
        r#"VALUES ('60.0.0.1'::inet, 24940::bigint, '{}'::jsonb),
                  ('60.0.0.2', 16509, '{"maxmind": {"asn": 16509, "asn_org": "AMAZON-02"}}'),
                  ('60.0.0.3', 28573, '{"cymru": {"asn": 28573, "asn_org": "Claro", "country": "BR", "registry": "arin"}}')"#,
    );
    db.run("CALL enrich.build_asn_inventory(progress => false)");
    let expected = [
        "3320|RIPE|iana",
        "7922|RIPE|NULL",
        "16509|ARIN|iana",
        "24940|RIPE|iana",
        "28573|ARIN|cymru",
        "64500|NULL|NULL",
    ];
    assert_eq!(db.rows(NETWORKS), expected);
    let result = "SELECT result -> 'created', result -> 'updated' FROM enrich.procedure_call";
    assert_eq!(db.one(result), "2|2");
    let versions = "SELECT asn_number, ctid, xmin FROM enrich.asn_inventory ORDER BY 1";
    let before = db.rows(versions);
    db.run("CALL enrich.build_asn_inventory(progress => false)");
    assert_eq!(db.rows(versions), before, "the second call has written a network");
    assert_eq!(db.rows(NETWORKS), expected);
}

#[test]
fn build_asn_inventory_fills_more_networks_than_one_transaction_and_waits_for_no_lock() {
    let mut db = database();
    db.run(
        "INSERT INTO enrich.asn_inventory (asn_number)
         SELECT n FROM generate_series(8192, 9215) n UNION ALL SELECT n FROM generate_series(64512, 65534) n
         UNION ALL SELECT n FROM generate_series(196608, 197631) n",
    );
    let mut other = db.another();
    other.run("BEGIN; SELECT FROM enrich.asn_inventory WHERE asn_number = 8200 FOR UPDATE");
    db.run("SET lock_timeout = '10s'; CALL enrich.build_asn_inventory(progress => false)");
    let filled = "SELECT count(*) FROM enrich.asn_inventory WHERE rir_registry = 'RIPE'";
    assert_eq!(db.number(filled), 2 * 1024 - 1);
    other.run("COMMIT");
    db.run("CALL enrich.build_asn_inventory(progress => false)");
    assert_eq!(db.number(filled), 2 * 1024);
}

#[test]
fn an_imported_registry_ranks_below_iana_and_is_kept_in_the_document() {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Migrations);
    db.run(
        r#"ALTER TABLE old.ip_inventory DROP CONSTRAINT ip_inventory_current_asn_fkey;
           INSERT INTO old.asn_inventory (asn_number, organization_name, organization_country, registry, first_seen, last_seen) VALUES
             (15169, 'Google', 'US', 'ripencc', now(), now()), (3320, 'Telekom', 'DE', NULL, now(), now()),
             (64501, 'Private', 'DE', 'ripencc', now(), now());
           INSERT INTO old.ip_inventory (ip_address, current_asn, first_seen, last_seen, enrichment) VALUES
             ('8.8.4.4', 13335, now(), now(), '{}'),
             ('8.8.4.5', 7922, now(), now(), '{"cymru": {"asn": 7922, "registry": "apnic"}}')"#,
    );
    db.run("CALL enrich.import_inventory('old')");
    assert_eq!(
        db.rows(NETWORKS),
        ["3320|RIPE|iana", "7922|APNIC|cymru", "13335|ARIN|iana", "15169|ARIN|iana", "64501|RIPE|import"]
    );
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{import,rir_registry}' FROM enrich.asn_inventory WHERE asn_number = 15169"
        ),
        "ripencc"
    );
    let before = db.rows("SELECT * FROM enrich.asn_inventory ORDER BY 1");
    db.run("CALL enrich.import_inventory('old')");
    assert_eq!(db.rows("SELECT * FROM enrich.asn_inventory ORDER BY 1"), before);
}

#[test]
fn a_registry_in_a_session_document_ranks_below_iana() {
    let mut db = database();
    db.run(
        r#"CREATE TABLE s (id int, source_ip inet, enrichment jsonb);
           INSERT INTO s VALUES
               (1, '48.0.0.1', '{"cymru": {"asn": 24940, "asn_org": "X", "country": "DE", "registry": "afrinic"}}'),
               (2, '48.0.0.2', '{"cymru": {"asn": 64502, "asn_org": "Y", "country": "DE", "registry": "afrinic"}}');
           SELECT enrich.attach_session_table('s', trust_input => true)"#,
    );
    db.run("CALL enrich.backfill_sessions('s', progress => false)");
    assert_eq!(db.rows(NETWORKS), ["24940|RIPE|iana", "64502|AFRINIC|document"]);
}

#[test]
fn an_answer_of_team_cymru_replaces_the_registry_of_iana() {
    let mut db = database();
    db.run("SELECT enrich.enrich_ip('8.8.8.8')");
    for (source, expected) in
        [("document", "f"), ("import", "f"), ("iana", "f"), ("maxmind", "t"), ("cymru", "t"), ("manual", "t")]
    {
        assert_eq!(
            db.one(&format!(
                "SELECT enrich.may_replace(rir_registry, enrichment, 'rir_registry', '{source}') FROM enrich.asn_inventory"
            )),
            expected,
            "{source}"
        );
    }
}
