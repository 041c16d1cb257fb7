//! Lists for firewalls: which targets they contain, which targets they never contain, and when a prefix or network replaces its
//! addresses.

use std::collections::{BTreeMap, BTreeSet};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::hosts::COWRIE;
use server_tests::random::Random;
use server_tests::type_files::{DAY, HOUR, ago, path, server, with_file};
use server_tests::world::{self, Files, asn_record};
use server_tests::{Cluster, Database, database};

const ALL: &str =
    "target, family, target_unit, sessions, addresses, reason, first_seen, last_seen, expires_at";

/// Returns a database with `sessions` from these addresses on each day.
fn attacked(days: &[(&str, &[&str])]) -> Database<'static> {
    let mut db = database();
    attack(&mut db, days);
    db
}

fn attack(db: &mut Database<'_>, days: &[(&str, &[&str])]) {
    COWRIE.create_attached(db);
    for (day, addresses) in days {
        let keys: Vec<String> = (0..addresses.len()).map(|n| format!("{day}-{n}")).collect();
        let rows: Vec<_> = keys.iter().zip(*addresses).map(|(key, ip)| (key.as_str(), Some(*ip))).collect();
        db.run(&COWRIE.insert_at(day, &rows));
    }
    db.run("CALL fold_statistics()");
}

fn targets(db: &mut Database<'_>, arguments: &str) -> Vec<String> {
    db.rows(&format!("SELECT target FROM blocklist('sessions', {arguments})"))
}

#[test]
fn a_blocklist_has_each_address_with_reason_and_expiry() {
    let mut db = attacked(&[
        ("2024-05-01", &["139.59.0.1", "8.8.8.8", "2001:4860::1"]),
        ("2024-05-03", &["8.8.8.8", "::ffff:8.8.8.8", "9.9.9.9"]),
    ]);
    let call = format!("SELECT {ALL} FROM blocklist('sessions', '2024-05-01', lifetime => '1 month')");
    let list = [
        "8.8.8.8|4|address|3|1|3 sessions, last on 2024-05-03|2024-05-01 00:00:00+00|2024-05-03 00:00:00+00|2024-06-03 00:00:00+00",
        "9.9.9.9|4|address|1|1|1 session, last on 2024-05-03|2024-05-03 00:00:00+00|2024-05-03 00:00:00+00|2024-06-03 00:00:00+00",
        "139.59.0.1|4|address|1|1|1 session, last on 2024-05-01|2024-05-01 00:00:00+00|2024-05-01 00:00:00+00|2024-06-01 00:00:00+00",
        "2001:4860::1|6|address|1|1|1 session, last on 2024-05-01|2024-05-01 00:00:00+00|2024-05-01 00:00:00+00|2024-06-01 00:00:00+00",
    ];
    assert_eq!(db.rows(&call), list);
    assert_eq!(targets(&mut db, "'2024-05-02'"), ["8.8.8.8", "9.9.9.9"]);
    assert_eq!(targets(&mut db, "NULL, 2"), ["8.8.8.8"]);
    // The default is 30 days.
    assert_eq!(
        db.one("SELECT expires_at FROM blocklist('sessions', NULL) WHERE target = '9.9.9.9'"),
        "2024-06-02 00:00:00+00"
    );
}

#[test]
fn two_calls_in_one_snapshot_return_equal_bytes() {
    let mut db = attacked(&[]);
    db.run(
        "INSERT INTO sessions (id, starttime, ip)
             SELECT n, timestamp '2024-05-01' + n * interval '1 minute', host('60.0.0.0'::inet + n * 7 % 3000)
             FROM generate_series(1, 9000) n;
         INSERT INTO sessions (id, starttime, ip)
             SELECT 'v6-' || n, '2024-05-01', host('2600::'::inet + n) FROM generate_series(1, 50) n",
    );
    db.run("CALL fold_statistics()");
    db.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    for unit in ["address", "prefix", "asn"] {
        let call = format!(
            "SELECT md5(string_agg(b::text, E'\\n')) FROM blocklist('sessions', '2024-05-02', unit => '{unit}') b"
        );
        let first = db.one(&call);
        // Other plans and time zones change nothing but the way times are displayed.
        db.run("SET LOCAL enable_hashjoin = off; SET LOCAL enable_hashagg = off");
        let mut other = db.another();
        other.run("INSERT INTO sessions (id, starttime, ip) VALUES (gen_random_uuid()::text::char(32), '2024-05-03', '70.0.0.1')");
        assert_eq!(db.one(&call), first, "{unit}");
        db.run("SET LOCAL enable_hashjoin = on; SET LOCAL enable_hashagg = on");
    }
    db.run("COMMIT");
}

#[test]
fn what_must_not_be_blocked_is_never_in_a_list() {
    let mut db = attacked(&[(
        "2024-05-01",
        &["8.8.8.8", "10.0.0.1", "139.59.0.1", "139.59.0.2", "60.0.0.1", "60.0.0.2", "61.0.0.1", "fe80::1"],
    )]);
    assert_eq!(
        targets(&mut db, "NULL"),
        ["8.8.8.8", "60.0.0.1", "60.0.0.2", "61.0.0.1", "139.59.0.1", "139.59.0.2"],
        "bogons are left out"
    );
    for (address, document) in [
        ("60.0.0.1", r#"{"greynoise": {"noise": true, "riot": false, "classification": "benign"}}"#),
        ("60.0.0.2", r#"{"greynoise": {"noise": false, "riot": true}}"#),
        ("61.0.0.1", r#"{"greynoise": {"noise": true, "riot": false, "classification": "malicious"}}"#),
        ("8.8.8.8", r#"{"greynoise": [1]}"#),
    ] {
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{document}' WHERE ip_address = '{address}'"));
    }
    assert_eq!(targets(&mut db, "NULL"), ["8.8.8.8", "61.0.0.1", "139.59.0.1", "139.59.0.2"]);
    db.run("INSERT INTO blocklist_exception (prefix, note) VALUES ('139.59.0.2', 'our monitoring'), ('61.0.0.0/24', 'a partner')");
    assert_eq!(targets(&mut db, "NULL"), ["8.8.8.8", "139.59.0.1"]);
    db.run("INSERT INTO blocklist_exception (asn_number, note) VALUES (15169, 'a search engine')");
    assert_eq!(targets(&mut db, "NULL"), ["139.59.0.1"]);
    for unit in ["prefix", "asn"] {
        assert_eq!(
            targets(&mut db, &format!("NULL, unit => '{unit}', min_density => 1e-30")),
            ["139.59.0.1"],
            "{unit}"
        );
    }
    // An exception also holds for an address whose row in the inventory is missing.
    db.run("DELETE FROM ip_inventory WHERE ip_address = '8.8.8.8'; DELETE FROM blocklist_exception WHERE prefix IS NOT NULL");
    assert_eq!(targets(&mut db, "NULL"), ["61.0.0.1", "139.59.0.1", "139.59.0.2"]);
}

#[test]
fn a_benign_scanner_on_a_list_is_never_blocked() {
    let cluster = server("blocklist-scanners");
    let file = |published| {
        let file = TypesFile::new().list("research", "SCANNER_BENIGN", published).list("tor", "TOR", ago(0));
        ["60.0.0.1/32", "60.0.0.200/32", "63.0.0.9/32", "2600::/64"]
            .iter()
            .fold(file, |file, prefix| file.entry("research", prefix))
            .entry("tor", "61.0.0.1/32")
    };
    let mut db = with_file(&cluster, &file(ago(HOUR)));
    attack(
        &mut db,
        &[(
            "2024-05-01",
            &["60.0.0.1", "60.0.0.2", "61.0.0.1", "62.0.0.1", "62.0.0.2", "2600::1", "2600:0:0:1::1"],
        )],
    );
    assert_eq!(targets(&mut db, "NULL"), ["60.0.0.2", "61.0.0.1", "62.0.0.1", "62.0.0.2", "2600:0:0:1::1"]);
    // A prefix with a scanner does not replace its addresses, even if no session came from the scanner.
    let prefixes = "NULL, unit => 'prefix', min_density => 1e-30";
    assert_eq!(targets(&mut db, prefixes), ["60.0.0.2", "61.0.0.0/24", "62.0.0.0/24", "2600:0:0:1::1"]);
    db.run(
        "SELECT ensure_asn_inventory(64500), ensure_asn_inventory(64501), ensure_asn_inventory(64502);
         UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '60.0.0.2';
         UPDATE ip_inventory SET current_asn = 64501 WHERE ip_address = '61.0.0.1';
         UPDATE ip_inventory SET current_asn = 64502 WHERE ip_address <<= '62.0.0.0/24';
         INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('63.0.0.9', 64502)",
    );
    let networks = "NULL, unit => 'asn', min_density => 1e-30";
    assert_eq!(
        targets(&mut db, networks),
        ["60.0.0.2", "62.0.0.1", "62.0.0.2", "AS64501", "2600:0:0:1::1"],
        "a scanner in a prefix of the network, and a scanner in the inventory"
    );
    assert_eq!(
        db.rows(
            "SELECT contains_benign_scanner(p) FROM unnest('{60.0.0.0/24,60.0.0.1,60.0.0.2,2600::/48,2600:0:0:1::/64,
                 61.0.0.1,0.0.0.0/0,::/0}'::cidr[]) p"
        ),
        ["t", "t", "f", "t", "f", "f", "t", "t"]
    );

    // A list that is too old is ignored.
    file(ago(8 * DAY)).write(&path(&cluster, "types"));
    db.run("SELECT reload_mmdb()");
    assert_eq!(targets(&mut db, "NULL").len(), 7);
    assert_eq!(targets(&mut db, prefixes), ["60.0.0.0/24", "61.0.0.0/24", "62.0.0.0/24", "2600::/48"]);
    assert_eq!(db.one("SELECT contains_benign_scanner('0.0.0.0/0')"), "f");
}

/// Sessions from 70 addresses of 60.0.0.0/24, of which the first two have another session.
fn dense() -> Database<'static> {
    let mut db = attacked(&[("2024-05-09", &["60.0.0.1", "60.0.0.2", "139.59.0.1"])]);
    db.run(
        "INSERT INTO sessions (id, starttime, ip)
             SELECT n, '2024-05-01', host('60.0.0.0'::inet + n) FROM generate_series(1, 70) n",
    );
    db.run("CALL fold_statistics()");
    db
}

#[test]
fn a_dense_prefix_replaces_its_addresses() {
    let mut db = dense();
    assert_eq!(
        db.rows(&format!("SELECT {ALL} FROM blocklist('sessions', NULL, unit => 'prefix')")),
        [
            "60.0.0.0/24|4|prefix|72|70|72 sessions from 70 of 256 addresses (27.3 %), last on 2024-05-09|2024-05-01 00:00:00+00|2024-05-09 00:00:00+00|2024-06-08 00:00:00+00",
            "139.59.0.1|4|address|1|1|1 session, last on 2024-05-09|2024-05-09 00:00:00+00|2024-05-09 00:00:00+00|2024-06-08 00:00:00+00",
        ]
    );
    // For a prefix, min_sessions is about all its sessions.
    assert_eq!(targets(&mut db, "NULL, 72, 'prefix'"), ["60.0.0.0/24"]);
    assert_eq!(targets(&mut db, "NULL, 73, 'prefix'"), [""; 0]);
    // Not dense enough: the addresses are listed one by one.
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 0.28").len(), 71);
    assert_eq!(targets(&mut db, "NULL, 2, 'prefix', 0.28"), ["60.0.0.1", "60.0.0.2"]);
    // Only addresses since then count.
    assert_eq!(targets(&mut db, "'2024-05-08', unit => 'prefix'"), ["60.0.0.1", "60.0.0.2", "139.59.0.1"]);
}

#[test]
fn a_prefix_with_an_exception_or_a_benign_scanner_falls_back_to_addresses() {
    for (what, change) in [
        ("an exception in it", "INSERT INTO blocklist_exception (prefix) VALUES ('60.0.0.200')"),
        (
            "an exception around it",
            "INSERT INTO blocklist_exception (prefix) VALUES ('60.0.0.70/32'), ('60.0.0.128/25')",
        ),
        (
            "a benign scanner without a session",
            "INSERT INTO ip_inventory (ip_address, enrichment) VALUES ('60.0.0.255', '{\"greynoise\": {\"riot\": true}}')",
        ),
        (
            "an address of a network that is an exception",
            "SELECT ensure_asn_inventory(64500); INSERT INTO blocklist_exception (asn_number) VALUES (64500);
             INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('60.0.0.0', 64500)",
        ),
    ] {
        let mut db = dense();
        db.run(change);
        let list = targets(&mut db, "NULL, unit => 'prefix'");
        assert_eq!(list.len(), if what == "an exception around it" { 70 } else { 71 }, "{what}");
        assert!(!list.contains(&"60.0.0.0/24".to_owned()), "{what}: {list:?}");
        // Outside the prefix it does not matter.
        db.run(
            "DELETE FROM blocklist_exception; DELETE FROM ip_inventory WHERE session_count = 0;
             INSERT INTO blocklist_exception (prefix) VALUES ('60.0.1.0/24'), ('59.255.255.255')",
        );
        assert_eq!(targets(&mut db, "NULL, unit => 'prefix'"), ["60.0.0.0/24", "139.59.0.1"], "{what}");
    }
}

#[test]
fn a_prefix_around_a_bogon_falls_back_to_addresses() {
    let mut db = attacked(&[("2024-05-01", &["203.0.112.1", "203.0.112.2"])]);
    db.run("UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"203.0.112.0/23\"}}'");
    assert_eq!(
        targets(&mut db, "NULL, unit => 'prefix', min_density => 1e-30"),
        ["203.0.112.1", "203.0.112.2"]
    );
    db.run("UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"203.0.112.0/24\"}}'");
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 1e-30"), ["203.0.112.0/24"]);
}

#[test]
fn ipv6_prefixes_are_dense_by_their_64s() {
    let mut db = attacked(&[("2024-05-01", &["2600::1", "2600::2", "2600:0:0:1::1"])]);
    db.run("UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"2600::/62\"}}'");
    assert_eq!(
        db.rows("SELECT target, family, reason FROM blocklist('sessions', NULL, unit => 'prefix', min_density => 0.5)"),
        ["2600::/62|6|3 sessions from 2 of 4 /64 prefixes (50.0 %), last on 2024-05-01"]
    );
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 0.6").len(), 3);
}

#[test]
fn a_dense_network_replaces_its_addresses() {
    let mut db = dense();
    db.run(
        "SELECT ensure_asn_inventory(64500);
         INSERT INTO sessions (id, starttime, ip) VALUES ('v6', '2024-05-01', '2600::1'), ('new', '2024-05-01', '61.0.0.1')",
    );
    db.run("CALL fold_statistics()");
    db.run("UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address <<= '60.0.0.0/24' OR ip_address = '2600::1'");
    assert_eq!(
        db.rows("SELECT target, family, target_unit, sessions, addresses, reason FROM blocklist('sessions', NULL, unit => 'asn')"),
        [
            // No network is known.
            "61.0.0.1|4|address|1|1|1 session, last on 2024-05-01",
            "139.59.0.1|4|address|1|1|1 session, last on 2024-05-09",
            "AS64500|4|asn|72|70|72 sessions from 70 of 256 addresses (27.3 %), last on 2024-05-09",
            // One /64 of 65,536.
            "2600::1|6|address|1|1|1 session, last on 2024-05-01",
        ]
    );
    for exception in [
        "INSERT INTO blocklist_exception (prefix) VALUES ('60.0.0.250')",
        "INSERT INTO ip_inventory (ip_address, current_asn, enrichment)
             VALUES ('62.0.0.1', 64500, '{\"greynoise\": {\"classification\": \"benign\"}}')",
        "INSERT INTO blocklist_exception (prefix) VALUES ('62.0.0.0/24');
         INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('62.0.0.1', 64500)",
    ] {
        db.run("BEGIN");
        db.run(exception);
        let list = targets(&mut db, "NULL, unit => 'asn'");
        assert_eq!(list.len(), 73, "{exception}: {list:?}");
        assert!(list.iter().all(|target| !target.starts_with("AS")), "{exception}: {list:?}");
        db.run("ROLLBACK");
    }
}

#[test]
fn a_network_is_not_listed_if_an_exception_is_anywhere_in_it() {
    let cluster = server("blocklist-networks");
    write_networks(&cluster);
    // The files say that 60.0.2.0/24 is in AS64500, and that a half of 60.0.1.0/24 is in AS64501.
    for (what, exception) in [
        (
            "a prefix of the files without a row in the inventory",
            "INSERT INTO blocklist_exception (prefix) VALUES ('60.0.2.9')",
        ),
        (
            "a common service without a network in the inventory",
            "INSERT INTO ip_inventory (ip_address, enrichment) VALUES ('60.0.2.9', '{\"greynoise\": {\"riot\": true}}')",
        ),
        (
            "an announced prefix of another address",
            "INSERT INTO ip_inventory (ip_address, current_asn, enrichment)
                 VALUES ('61.0.0.1', 64500, '{\"cymru\": {\"prefix\": \"61.0.0.0/16\"}}');
             INSERT INTO blocklist_exception (prefix) VALUES ('61.0.9.9')",
        ),
        (
            "an address that the inventory and the files have in different networks",
            "INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('60.0.2.9', 64502);
             INSERT INTO blocklist_exception (asn_number) VALUES (64502)",
        ),
        (
            "a network inside an announced prefix",
            "INSERT INTO ip_inventory (ip_address, current_asn, enrichment)
                 VALUES ('60.0.0.9', 64500, '{\"cymru\": {\"prefix\": \"60.0.0.0/23\"}}');
             INSERT INTO blocklist_exception (asn_number) VALUES (64501)",
        ),
        (
            "a bogon in a prefix",
            "UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"203.0.112.0/23\"}}' WHERE ip_address = '203.0.112.1'",
        ),
    ] {
        let mut db = with_file(&cluster, &TypesFile::new().list("research", "SCANNER_BENIGN", ago(HOUR)));
        attack(&mut db, &[("2024-05-01", &["60.0.2.1", "203.0.112.1"])]);
        db.run(
            "SELECT ensure_asn_inventory(64500), ensure_asn_inventory(64501), ensure_asn_inventory(64502);
             UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '203.0.112.1'",
        );
        let list = "NULL, unit => 'asn', min_density => 1e-30";
        assert_eq!(targets(&mut db, list), ["AS64500"], "{what}");
        db.run(exception);
        assert_eq!(targets(&mut db, list), ["60.0.2.1", "203.0.112.1"], "{what}");
    }
    let scanner =
        TypesFile::new().list("research", "SCANNER_BENIGN", ago(HOUR)).entry("research", "60.0.2.200/32");
    let mut db = with_file(&cluster, &scanner);
    attack(&mut db, &[("2024-05-01", &["60.0.2.1"])]);
    db.run("UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"60.0.2.0/25\"}}'");
    assert_eq!(targets(&mut db, "NULL, unit => 'asn', min_density => 1e-30"), ["60.0.2.1"]);
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 1e-30"), ["60.0.2.0/25"]);
    assert_eq!(db.one("SELECT networks_of_benign_scanners()"), "{64500}");
    assert_eq!(
        db.rows("SELECT networks_within(p) FROM unnest('{60.0.1.0/24,60.0.1.0/25,60.0.0.0/14,2600::/32}'::cidr[]) p"),
        ["{64501}", "{}", "{64500,64501,64502}", "{64501}"]
    );
}

#[test]
fn an_excepted_network_protects_the_prefixes_in_it() {
    let cluster = server("blocklist-excepted-network");
    write_networks(&cluster);
    let mut db = with_file(&cluster, &TypesFile::new().list("research", "SCANNER_BENIGN", ago(HOUR)));
    attack(&mut db, &[("2024-05-01", &["60.0.1.1", "70.0.0.1"])]);
    let list = "NULL, unit => 'prefix', min_density => 1e-30";
    assert_eq!(targets(&mut db, list), ["60.0.1.0/24", "70.0.0.0/24"]);
    // According to the files, the other half of 60.0.1.0/24 is in AS64501.
    db.run("INSERT INTO blocklist_exception (asn_number) VALUES (64501), (64502)");
    assert_eq!(targets(&mut db, list), ["60.0.1.1", "70.0.0.0/24"]);
    // AS64502 announces a prefix around 70.0.0.0/24, and the network of 70.0.0.1 is unknown.
    db.run(
        "INSERT INTO block_answer (provider, prefix, asn_number, document, is_absent, asked_at)
             VALUES ('cymru', '70.1.0.0/24', 64502, '{\"cymru\": {\"prefix\": \"70.0.0.0/15\"}}', false, now())",
    );
    assert_eq!(targets(&mut db, list), ["60.0.1.1"]);
    // The network of 70.0.0.1 is known, but other addresses of 70.0.0.0/24 can be in AS64502.
    db.run(
        "SELECT ensure_asn_inventory(64503);
         UPDATE ip_inventory SET current_asn = 64503 WHERE ip_address = '70.0.0.1'",
    );
    assert_eq!(targets(&mut db, list), ["60.0.1.1", "70.0.0.1"]);
    // Another network announces 70.0.0.0/24 itself.
    db.run(
        "UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"70.0.0.0/24\"}}'
             WHERE ip_address = '70.0.0.1'",
    );
    assert_eq!(targets(&mut db, list), ["60.0.1.1", "70.0.0.0/24"]);
}

/// Prefixes and networks that the file of networks has in addition to those of the test data. The last prefix is a bogon.
const NETWORKS: &[(&str, i64)] = &[
    ("60.0.1.128/25", 64_501),
    ("60.0.2.0/24", 64_500),
    ("60.0.3.0/26", 64_502),
    ("2600:0:0:1::/64", 64_501),
    ("203.0.113.0/24", 64_500),
];

fn write_networks(cluster: &Cluster) {
    let mut file = world::asn_database();
    for (prefix, asn) in NETWORKS {
        file.insert(prefix, asn_record(*asn as u64, "Example"));
    }
    file.build_epoch(1_800_000_000).write(&Files::below(cluster.files()).asn);
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).expect("the text is a prefix")
}

/// Returns true if `outer` contains all addresses of `inner`, and other addresses.
fn is_around(outer: Prefix, inner: Prefix) -> bool {
    outer.length() < inner.length() && outer.contains(inner.network())
}

/// A row of the inventory.
#[derive(Default, Clone)]
struct Known {
    asn: Option<i64>,
    announced: Option<Prefix>,
    is_benign: bool,
}

/// Random contents of the tables and files that `blocklist()` reads, and the rules of `blocklist()` in a second, slow form.
struct Contents {
    sessions: BTreeSet<Address>,
    inventory: BTreeMap<Address, Known>,
    exceptions: Vec<Prefix>,
    excepted_networks: BTreeSet<i64>,
    scanners: Vec<Prefix>,
    /// Prefix, ASN and announced prefix of answers about blocks.
    answers: Vec<(Prefix, i64, Option<Prefix>)>,
}

/// The addresses that may have sessions. No other address is ever in the inventory.
fn universe() -> Vec<Address> {
    let mut all: Vec<String> = Vec::new();
    for block in
        ["60.0.0", "60.0.1", "60.0.2", "60.0.3", "23.0.0", "23.1.0", "8.8.8", "203.0.112", "203.0.113"]
    {
        all.extend([1, 2, 3, 9, 130, 131, 200, 255].map(|host| format!("{block}.{host}")));
    }
    for block in ["2600:0:0:0", "2600:0:0:1", "2600:0:0:2", "2600:0:1:0"] {
        all.extend([1, 2].map(|host| format!("{block}::{host}")));
    }
    all.iter().map(|text| Address::new(text.parse().expect("the text is an address"))).collect()
}

fn some_prefix(random: &mut Random, addresses: &[Address], lengths: [&[u8]; 2]) -> Prefix {
    let address = *random.pick(addresses);
    let length = *random.pick(lengths[usize::from(address.ip().is_ipv6())]);
    Prefix::new(address, length).expect("the length is valid")
}

impl Contents {
    fn random(random: &mut Random) -> Contents {
        let all = universe();
        let announced: [&[u8]; 2] = [&[20, 22, 23, 24, 25], &[46, 47, 48, 64]];
        let asns = [64_500, 64_501, 64_502, 200_000, 15_169];
        let mut inventory = BTreeMap::new();
        for address in &all {
            if random.one_in(3) {
                continue;
            }
            let row = Known {
                asn: (!random.one_in(3)).then(|| *random.pick(&asns)),
                announced: random.one_in(3).then(|| some_prefix(random, &[*address], announced)),
                is_benign: random.one_in(60),
            };
            inventory.insert(*address, row);
        }
        let few = |random: &mut Random, most: u64, lengths: [&[u8]; 2]| -> Vec<Prefix> {
            (0..random.below(most + 1)).map(|_| some_prefix(random, &all, lengths)).collect()
        };
        let exceptions = few(random, 2, [&[32, 32, 28, 24, 22], &[128, 64, 48]]);
        let scanners = few(random, 2, [&[32, 30], &[128, 64]]);
        let answers: Vec<_> = few(random, 3, [&[24], &[48]])
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|block| {
                let inside = random.one_in(2).then(|| some_prefix(random, &[block.network()], announced));
                (block, *random.pick(&asns), inside)
            })
            .collect();
        Contents {
            sessions: all.iter().copied().filter(|_| !random.one_in(3)).collect(),
            inventory,
            exceptions,
            excepted_networks: asns.into_iter().filter(|_| random.one_in(6)).collect(),
            scanners,
            answers,
        }
    }

    fn types_file(&self) -> TypesFile {
        let file =
            TypesFile::new().list("research", "SCANNER_BENIGN", ago(HOUR)).list("tor", "TOR", ago(HOUR));
        let file = self.scanners.iter().fold(file, |file, block| file.entry("research", &block.to_string()));
        file.entry("tor", "60.0.0.0/24")
    }

    fn store(&self, db: &mut Database<'_>) {
        COWRIE.create_attached(db);
        let keys: Vec<String> = self.sessions.iter().map(ToString::to_string).collect();
        let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(key.as_str()))).collect();
        db.run(&COWRIE.insert_at("2024-05-01", &rows));
        db.run("CALL fold_statistics(); DELETE FROM ip_inventory");
        db.run("SELECT ensure_asn_inventory(n) FROM unnest('{64500,64501,64502,200000,15169}'::bigint[]) n");
        for (address, row) in &self.inventory {
            let asn = row.asn.map_or("NULL".to_owned(), |asn| asn.to_string());
            let announced =
                row.announced.map_or("{}".to_owned(), |p| format!("{{\"cymru\": {{\"prefix\": \"{p}\"}}}}"));
            let benign = if row.is_benign { "{\"greynoise\": {\"riot\": true}}" } else { "{}" };
            db.run(&format!(
                "INSERT INTO ip_inventory (ip_address, current_asn, enrichment)
                     VALUES ('{address}', {asn}, '{announced}'::jsonb || '{benign}'::jsonb)"
            ));
        }
        for prefix in &self.exceptions {
            db.run(&format!(
                "INSERT INTO blocklist_exception (prefix) VALUES ('{prefix}') ON CONFLICT DO NOTHING"
            ));
        }
        for asn in &self.excepted_networks {
            db.run(&format!("INSERT INTO blocklist_exception (asn_number) VALUES ({asn})"));
        }
        for (block, asn, announced) in &self.answers {
            let document =
                announced.map_or("{}".to_owned(), |p| format!("{{\"cymru\": {{\"prefix\": \"{p}\"}}}}"));
            db.run(&format!(
                "INSERT INTO block_answer (provider, prefix, asn_number, document, is_absent, asked_at)
                     VALUES ('cymru', '{block}', {asn}, '{document}', false, now())"
            ));
        }
    }

    fn asn_of_files(address: Address) -> Option<i64> {
        if bogon::reason(address).is_some() {
            return None;
        }
        let of_world = [("8.8.8.0/24", 15_169), ("23.0.0.0/16", 200_000), ("23.1.0.0/16", 200_001)];
        NETWORKS
            .iter()
            .chain(&of_world)
            .find(|(block, _)| prefix(block).contains(address))
            .map(|(_, asn)| *asn)
    }

    /// Returns the current network of an address.
    fn network(&self, address: Address) -> Option<i64> {
        let of_inventory = self.inventory.get(&address).and_then(|row| row.asn);
        of_inventory.or_else(|| Contents::asn_of_files(address))
    }

    /// Returns the networks to which an address belongs according to any source.
    fn networks(&self, address: Address) -> BTreeSet<i64> {
        let of_inventory = self.inventory.get(&address).and_then(|row| row.asn);
        of_inventory.into_iter().chain(Contents::asn_of_files(address)).collect()
    }

    /// Returns the prefixes that networks announce.
    fn announced(&self) -> Vec<(i64, Prefix)> {
        let of_rows = self.inventory.values().filter_map(|row| Some((row.asn?, row.announced?)));
        let of_blocks =
            self.answers.iter().map(|(block, asn, announced)| (*asn, announced.unwrap_or(*block)));
        of_rows.chain(of_blocks).collect()
    }

    /// Returns true if the address is in a prefix of an excepted network. With `longest`, a longer announced prefix around the
    /// address takes precedence.
    fn is_in_prefix_of_excepted(&self, address: Address, longest: bool) -> bool {
        let others: Vec<Prefix> = self
            .inventory
            .values()
            .filter_map(|row| row.announced)
            .chain(self.answers.iter().filter_map(|(_, _, announced)| *announced))
            .filter(|other| other.contains(address))
            .collect();
        self.announced().iter().any(|(asn, block)| {
            self.excepted_networks.contains(asn)
                && block.contains(address)
                && !(longest && others.iter().any(|other| is_around(*block, *other)))
        })
    }

    fn must_not_be_blocked(&self, address: Address, longest: bool) -> bool {
        let networks = self.networks(address);
        bogon::reason(address).is_some()
            || self.exceptions.iter().chain(&self.scanners).any(|block| block.contains(address))
            || self.inventory.get(&address).is_some_and(|row| row.is_benign)
            || !networks.is_disjoint(&self.excepted_networks)
            || networks.is_empty() && self.is_in_prefix_of_excepted(address, longest)
    }

    /// Returns true if a firewall that blocks a target blocks the address.
    fn covers(&self, target: &str, address: Address) -> bool {
        if let Some(asn) = target.strip_prefix("AS") {
            let asn: i64 = asn.parse().expect("the target is a network");
            return self.networks(address).contains(&asn)
                || self.announced().iter().any(|(of, block)| *of == asn && block.contains(address));
        }
        match Prefix::parse(target) {
            Some(block) => block.contains(address),
            None => target == address.to_string(),
        }
    }

    /// Returns true if the row with this target is the row that stands for the sessions of the address.
    fn stands_for(&self, target: &str, address: Address) -> bool {
        match target.strip_prefix("AS") {
            Some(asn) => self.network(address).is_some_and(|network| network.to_string() == asn),
            None => self.covers(target, address),
        }
    }
}

#[test]
fn no_row_covers_what_must_not_be_blocked_and_no_other_session_is_lost() {
    let cluster = server("blocklist-property");
    write_networks(&cluster);
    let (mut prefixes, mut networks, mut excepted) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = Random::seeded(seed);
        let contents = Contents::random(&mut random);
        let mut db = with_file(&cluster, &contents.types_file());
        contents.store(&mut db);
        let addresses: BTreeSet<Address> =
            universe().into_iter().chain(contents.scanners.iter().map(|block| block.network())).collect();
        for unit in ["address", "prefix", "asn"] {
            let density = *random.pick(&["1e-30", "1e-30", "0.01", "0.02"]);
            let list = targets(&mut db, &format!("NULL, unit => '{unit}', min_density => {density}"));
            let what = format!("seed {seed}, unit {unit}, density {density}");
            for address in &addresses {
                let covering: Vec<&String> =
                    list.iter().filter(|row| contents.covers(row, *address)).collect();
                if contents.must_not_be_blocked(*address, true) {
                    excepted += 1;
                    assert!(covering.is_empty(), "{what}: {covering:?} covers {address}");
                }
                let is_wanted =
                    contents.sessions.contains(address) && !contents.must_not_be_blocked(*address, false);
                let is_listed = list.iter().any(|row| contents.stands_for(row, *address));
                assert!(is_listed || !is_wanted, "{what}: {address} is missing in {list:?}");
            }
            prefixes += list.iter().filter(|target| target.contains('/')).count();
            networks += list.iter().filter(|target| target.starts_with("AS")).count();
        }
    }
    assert!(prefixes > 20 && networks > 5 && excepted > 100, "{prefixes} {networks} {excepted}");
}

#[test]
fn invalid_arguments_are_refused_with_what_is_valid() {
    let mut db = attacked(&[]);
    let density = "min_density must be greater than 0, and at most 1";
    let density_hint = Some(
        "With 0.25, a prefix is listed if sessions came from a quarter of its addresses. With 0.01, a /24 prefix is listed \
         if sessions came from 3 addresses.",
    );
    for (arguments, code, message, hint) in [
        ("NULL, unit => 'subnet'", "22023", "invalid unit", Some("Use one of address, prefix, asn.")),
        ("NULL, unit => NULL", "22023", "invalid unit", Some("Use one of address, prefix, asn.")),
        ("NULL, 0", "22023", "min_sessions must be at least 1", None),
        ("NULL, NULL", "22023", "min_sessions must be at least 1", None),
        ("NULL, min_density => 1.5", "22023", density, density_hint),
        ("NULL, min_density => 'NaN'", "22023", density, density_hint),
        ("NULL, min_density => NULL", "22023", density, density_hint),
        // One session would put a whole provider on the list.
        ("NULL, min_density => 0", "22023", density, density_hint),
        ("NULL, lifetime => '-1 day'", "22023", "lifetime must not be negative", None),
        (
            "NULL, lifetime => '300000 years'",
            "22023",
            "lifetime must be at most 1000 years",
            Some("With 30 days, a row expires 30 days after the last session."),
        ),
    ] {
        let refusal = db.refused(&format!("SELECT * FROM blocklist('sessions', {arguments})"));
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str(), refusal.hint.as_deref()),
            (code, message, hint),
            "{arguments}"
        );
    }
}

#[test]
fn an_exception_names_a_prefix_or_a_network() {
    let mut db = database();
    for (values, code) in [
        ("(prefix, asn_number) VALUES ('8.8.8.0/24', 15169)", "23514"),
        ("(note) VALUES ('nothing')", "23514"),
        ("(prefix) VALUES ('8.8.8.8/24')", "22P02"),
        ("(prefix) VALUES ('::ffff:8.8.8.0/120')", "23514"),
        ("(asn_number) VALUES (0)", "23514"),
        ("(asn_number) VALUES (64500), (64500)", "23505"),
    ] {
        assert_eq!(db.refused(&format!("INSERT INTO blocklist_exception {values}")).code, code, "{values}");
    }
    db.run("INSERT INTO blocklist_exception (prefix) VALUES ('8.8.8.8'), ('2600::/32'); INSERT INTO blocklist_exception (asn_number) VALUES (64500)");
    assert_eq!(
        db.rows("SELECT prefix, asn_number FROM blocklist_exception ORDER BY 1, 2"),
        ["8.8.8.8/32|NULL", "2600::/32|NULL", "NULL|64500"]
    );
}
