//! Erasing addresses from sessions and from all tables of the extension. Dumps are searched for every word that can be
//! read as the address, and counts are compared with a recount.

use server_tests::database;
use server_tests::erasures::{ERASED, TABLES, V4, V6, documents_of_others, mentions, spread, stored};
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;

#[test]
fn a_dump_contains_an_erased_address_in_no_form() {
    for delete in ["false", "true"] {
        let mut db = database();
        stored(&mut db);
        for (address, spelling) in [(V4, "::FFFF:8.8.8.8"), (V6, "2001:4860:4860:0000::8888")] {
            spread(&mut db, address, spelling);
            // Every kind of table has it.
            assert!(mentions(&db, address).len() >= 23, "{:#?}", mentions(&db, address));
            db.run(&format!("CALL erase_address('{address}', {delete})"));
            assert_eq!(mentions(&db, address), [""; 0], "delete_sessions => {delete}");
            // The rest of a document stays.
            assert_eq!(
                documents_of_others(&mut db),
                [format!(
                    r#"{{"ip": "139.59.0.1", "peers": ["{ERASED}", "1.1.1.1"]}}|{{"error": "{ERASED}", "state": "failed"}}"#
                )]
            );
            assert_eq!(
                db.one("SELECT result ->> 'documents' FROM procedure_call WHERE procedure = 'erase_address'"),
                // Three sessions, one address, one network and two blocks.
                "7"
            );
            assert_eq!(
                db.rows(&format!(
                    "SELECT procedure FROM procedure_call c WHERE mentions_address(c::text, '{{{address}}}')"
                )),
                [""; 0]
            );
        }
        assert_counts_are_exact(&mut db, &TABLES);
        // The lookups of other addresses stay.
        assert_eq!(db.number("SELECT count(*) FROM enrichment_job"), 1);
        assert_eq!(db.number("SELECT count(*) FROM dead_letter"), 4);
        // An exception for a wider prefix names a network.
        let note = "The note named an address that was erased.";
        assert_eq!(
            db.rows("SELECT COALESCE(prefix::text, asn_number::text), note FROM blocklist_exception ORDER BY prefix, asn_number"),
            [
                format!("8.8.8.0/24|{note}"),
                format!("2001:4860:4860::/48|{note}"),
                format!("64504|{note}"),
                format!("64506|{note}"),
                "64514|kept".to_owned(),
                "64516|kept".to_owned(),
            ]
        );
        assert_eq!(db.number("SELECT count(*) FROM suspended_owner"), 2);
        let (left, sessions) = if delete == "true" { ("c,d,f", "t") } else { ("a,b,c,d,e,f", "s,t,u,v") };
        assert_eq!(db.one("SELECT string_agg(trim(id), ',' ORDER BY id) FROM sessions"), left);
        assert_eq!(
            db.one("SELECT string_agg(session_id, ',' ORDER BY session_id) FROM session_summaries"),
            sessions
        );
        if delete == "false" {
            assert_eq!(
                db.rows(
                    "SELECT DISTINCT ip, snapshot_asn, snapshot_country, enrichment, enrichment_at FROM sessions
                     WHERE id IN ('a', 'b', 'e')"
                ),
                ["|NULL|NULL|NULL|NULL"]
            );
            assert_eq!(
                db.rows("SELECT DISTINCT source_ip, snapshot_asn FROM session_summaries WHERE session_id IN ('s', 'v')"),
                ["NULL|NULL"]
            );
        }
        assert_eq!(db.rows("SELECT snapshot_asn FROM sessions WHERE id = 'd'"), ["14061"]);
        assert_eq!(db.number("SELECT session_count FROM ip_inventory WHERE ip_address = '139.59.0.1'"), 2);
    }
}

/// A session whose address column has another text than an address belongs to each address that the text mentions.
#[test]
fn texts_in_the_address_column_that_mention_an_address_are_erased() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let texts = [
        "8.8.8.8:4444",
        "[8.8.8.8]",
        "008.008.008.008",
        "8.8.8.8%eth0",
        "8.8.8.8,10.0.0.1",
        "\"8.8.8.8\"",
        "host-8-8-8-8.example.net",
        "8.8.8.80",
        "not an ip",
    ];
    let rows: Vec<(String, &str)> =
        texts.iter().enumerate().map(|(n, text)| (format!("k{n}"), *text)).collect();
    db.run(&COWRIE.insert(&rows.iter().map(|(key, text)| (key.as_str(), Some(*text))).collect::<Vec<_>>()));
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(
        db.rows("SELECT trim(ip) FROM sessions WHERE trim(ip) <> '' ORDER BY id"),
        ["8.8.8.80", "not an ip"]
    );
    db.run("CALL expire_addresses('1 day', 'sessions')");
    assert_eq!(
        db.number("SELECT count(*) FROM sessions WHERE trim(ip) <> ''"),
        0,
        "the sessions are of 2024"
    );
    db.run("CALL expire_addresses('1 day', 'sessions', true)");
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 0);
}

/// The digits of a build time are also the bytes and the value of an address.
#[test]
fn build_times_of_mmdb_files_are_kept_and_names_of_networks_are_erased() {
    let mut db = database();
    stored(&mut db);
    let documents = "SELECT ip_address::text, enrichment FROM ip_inventory
                     UNION ALL SELECT id, enrichment FROM sessions ORDER BY 1";
    let before = db.rows(documents);
    let epoch: i64 = db.number("SELECT (enrichment #>> '{maxmind,build_epoch}')::bigint FROM ip_inventory WHERE ip_address = '8.8.8.9'");
    let bits = u32::try_from(epoch).expect("a time of this century");
    let digits =
        u32::from_str_radix(&epoch.to_string()[2..], 16).expect("decimal digits are hexadecimal digits");
    for address in [bits, digits].map(std::net::Ipv4Addr::from) {
        db.run(&format!(
            "SELECT ensure_asn_inventory(64500, 'Customer of {address} Ltd');
             UPDATE asn_inventory SET as_name = 'AS-{}, SE' WHERE asn_number = 64500",
            address.to_string().replace('.', "-")
        ));
        db.run(&format!("CALL erase_address('{address}')"));
        assert_eq!(db.rows(documents), before, "{address}");
        assert_eq!(
            db.rows("SELECT organization_name, as_name FROM asn_inventory WHERE asn_number = 64500"),
            ["NULL|NULL"]
        );
        assert_eq!(
            db.one("SELECT result ->> 'documents' FROM procedure_call WHERE procedure = 'erase_address'"),
            "1"
        );
    }
    assert!(db.number("SELECT count(*) FROM asn_inventory WHERE organization_name IS NOT NULL") > 0);
}

#[test]
fn networks_lose_the_address_and_its_sessions() {
    let mut db = database();
    stored(&mut db);
    let of = "SELECT unique_ip_count, total_session_count FROM asn_inventory WHERE asn_number = 15169";
    assert_eq!(db.one(of), "3|7");
    db.run(&format!("CALL erase_address('{V4}')"));
    assert_eq!(db.one(of), "2|3");
    // The same from wrong counts: what the address had is taken off.
    db.run("UPDATE ip_inventory SET session_count = 40 WHERE ip_address = '8.8.8.9'");
    db.run("CALL refresh_session_counts()");
    db.run("CALL erase_address('8.8.8.9')");
    assert_eq!(db.one(of), "1|2");
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("CALL refresh_session_counts()");
    assert_eq!(db.one(of), "1|2");
    // An address that is unknown, and one that is erased already.
    db.run(&format!("CALL erase_address('{V4}')"));
    db.run("CALL erase_address('192.0.2.1')");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE ip_address <<= '192.0.2.0/24'"), 0);
    // New sessions of an erased address are ordinary sessions.
    db.run(&COWRIE.insert(&[("again", Some(V4))]));
    assert_eq!(COWRIE.snapshot(&mut db, "again"), "15169|US|NULL");
    assert_counts_are_exact(&mut db, &TABLES);
}

#[test]
fn tables_with_a_foreign_key_and_partitions_are_erased_too() {
    let mut db = database();
    db.run(
        "CREATE TABLE events (at timestamptz NOT NULL, peer inet) PARTITION BY RANGE (at);
         CREATE TABLE events_may PARTITION OF events FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
         CREATE TABLE events_june PARTITION OF events FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
         SELECT attach_session_table('events', 'peer', 'at', add_foreign_key => true);
         INSERT INTO events VALUES ('2024-05-03', '8.8.8.8'), ('2024-06-03', '8.8.8.8'), ('2024-06-04', '1.1.1.1')",
    );
    // A table with hand-written triggers may lack the index of the completion.
    db.run(
        "CREATE TABLE plain (peer inet); SELECT attach_session_table('plain', 'peer');
         INSERT INTO plain VALUES ('8.8.8.8');
         DO $$BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'plain'::regclass); END$$",
    );
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(
        db.rows("SELECT peer, snapshot_asn IS NULL FROM events ORDER BY at"),
        ["NULL|t", "NULL|t", "1.1.1.1|f"]
    );
    assert_counts_are_exact(&mut db, &[("events", "peer"), ("plain", "peer")]);
}

/// The unit tests of `engine::mention` have all forms.
#[test]
fn every_spelling_of_an_address_in_a_text_is_found() {
    let mut db = database();
    for (text, is_named) in [
        ("8.8.8.8", true),
        ("{\"ip\": \"8.8.8.8/32\"}", true),
        ("::ffff:808:808", true),
        ("bytes \\x08080808", true),
        ("ff0808080808ff", true),
        ("1.2.3.4:8.8.8.8", true),
        ("hxxp://8[.]8[.]8(.)8/", true),
        ("8.8.8.8.in-addr.arpa", true),
        ("peer:2001:db8::1", true),
        ("2001\\u003adb8%3A%3A1", true),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", true),
        ("20010db8000000000000000000000002", false),
        ("8.8.8.80", false),
        ("18.8.8.8", false),
        ("8.8.8.0/24", false),
        ("", false),
    ] {
        let found = db.one(&format!("SELECT mentions_address('{text}', '{{8.8.8.8,2001:db8::1}}')"));
        assert_eq!(found == "t", is_named, "{text}");
    }
    assert_eq!(
        db.one("SELECT mentions_address(NULL, '{8.8.8.8}'), mentions_address('8.8.8.8', NULL)"),
        "f|f"
    );
}
