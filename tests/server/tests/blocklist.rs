//! Lists for firewalls: which targets they contain, which targets they never contain, and when a prefix or network replaces its
//! addresses.

use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::hosts::COWRIE;
use server_tests::type_files::{DAY, HOUR, ago, path, server, with_file};
use server_tests::{Database, database};

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
            targets(&mut db, &format!("NULL, unit => '{unit}', min_density => 0")),
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
    let prefixes = "NULL, unit => 'prefix', min_density => 0";
    assert_eq!(targets(&mut db, prefixes), ["60.0.0.2", "61.0.0.0/24", "62.0.0.0/24", "2600:0:0:1::1"]);
    db.run(
        "SELECT ensure_asn_inventory(64500), ensure_asn_inventory(64501), ensure_asn_inventory(64502);
         UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '60.0.0.2';
         UPDATE ip_inventory SET current_asn = 64501 WHERE ip_address = '61.0.0.1';
         UPDATE ip_inventory SET current_asn = 64502 WHERE ip_address <<= '62.0.0.0/24';
         INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('63.0.0.9', 64502)",
    );
    let networks = "NULL, unit => 'asn', min_density => 0";
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
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 0"), ["203.0.112.1", "203.0.112.2"]);
    db.run("UPDATE ip_inventory SET enrichment = '{\"cymru\": {\"prefix\": \"203.0.112.0/24\"}}'");
    assert_eq!(targets(&mut db, "NULL, unit => 'prefix', min_density => 0"), ["203.0.112.0/24"]);
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
fn invalid_arguments_are_refused_with_what_is_valid() {
    let mut db = attacked(&[]);
    for (arguments, code, message, hint) in [
        ("NULL, unit => 'subnet'", "22023", "invalid unit", Some("Use one of address, prefix, asn.")),
        ("NULL, unit => NULL", "22023", "invalid unit", Some("Use one of address, prefix, asn.")),
        ("NULL, 0", "22023", "min_sessions must be at least 1", None),
        ("NULL, NULL", "22023", "min_sessions must be at least 1", None),
        (
            "NULL, min_density => 1.5",
            "22023",
            "min_density must be between 0 and 1",
            Some("With 0.25, a prefix is listed if sessions came from a quarter of its addresses."),
        ),
        (
            "NULL, min_density => 'NaN'",
            "22023",
            "min_density must be between 0 and 1",
            Some("With 0.25, a prefix is listed if sessions came from a quarter of its addresses."),
        ),
        ("NULL, lifetime => '-1 day'", "22023", "lifetime must not be negative", None),
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
