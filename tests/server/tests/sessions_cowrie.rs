//! The honeypot's own table: `sessions` with a varchar address, one statement per transaction, and peers with arbitrary
//! names.

#[macro_use]
mod behaviours;

use server_tests::database::{cluster_with_unread_world, cluster_with_world};
use server_tests::hosts::{COWRIE, NOON};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, database, fresh_database};

behaviours_of!(COWRIE);

/// Returns texts that a peer or a proxy may leave in an address column. The flag says if a text is an error. '' and
/// null mean that an address is missing, and are not errors.
fn malformed() -> Vec<(&'static str, Option<String>, bool)> {
    let some = |text: &str| Some(text.to_owned());
    vec![
        ("empty", some(""), false),
        ("null", None, false),
        ("words", some("not an ip"), true),
        ("statement", some("1.2.3.4; drop table"), true),
        ("long", some(&"1.2.3.4".repeat(1_463)), true),
        ("octets", some("1.2.3.4.5"), true),
        ("large octet", some("1.2.3.256"), true),
        ("host name", some("proxy.example"), true),
        ("unix socket", some("unix:/run/cowrie.sock"), true),
        ("colons", some(":::"), true),
        ("bytes", some("8.8.8.8\u{1}\u{feff}é"), true),
        ("quote", some("8.8.8.8'"), true),
        ("percent", some("%s%n"), true),
    ]
}

/// A separate server, because counters belong to the whole server and are compared exactly here.
#[test]
fn malformed_addresses_are_stored_and_counted_as_errors() {
    let cluster = cluster_with_world(&Options::named("sessions-malformed"));
    for column_type in ["text", "varchar"] {
        let mut db = fresh_database(&cluster);
        COWRIE.create(&mut db);
        db.run(&format!("ALTER TABLE sessions ALTER ip DROP NOT NULL, ALTER ip TYPE {column_type}"));
        COWRIE.attach(&mut db);
        db.run("SELECT enrich.reset_enrich_stats()");
        let mut errors = 0;
        for (key, address, is_error) in malformed() {
            db.client
                .execute(
                    "INSERT INTO sessions (id, starttime, ip) VALUES ($1, '2024-05-01', $2)",
                    &[&key, &address],
                )
                .unwrap_or_else(|e| panic!("{key} in {column_type}: {e}"));
            assert_eq!(COWRIE.snapshot(&mut db, key), "NULL|NULL|NULL", "{key}");
            errors += i64::from(is_error);
        }
        assert_eq!(
            db.number("SELECT errors FROM enrich.enrich_stats()"),
            errors,
            "errors counted for {column_type}"
        );
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 0);
        assert_eq!(db.number("SELECT count(*) FROM sessions"), malformed().len() as i64);
    }
}

#[test]
fn cowries_own_column_takes_what_fits_it() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    for (key, address) in [
        ("empty", ""),
        ("words", "not an ip"),
        ("statement", "1.2.3.4; drop table"),
        ("zone", "fe80::1%eth0"),
        ("documentation", "2001:db8::1"),
        ("mapped", "::ffff:8.8.8.8"),
        ("blanks", "8.8.8.8   "),
    ] {
        db.run(&COWRIE.insert(&[(key, Some(address))]));
    }
    for key in ["empty", "words", "statement", "zone", "documentation"] {
        assert_eq!(COWRIE.snapshot(&mut db, key), "NULL|NULL|NULL", "{key}");
    }
    assert_eq!(COWRIE.snapshot(&mut db, "mapped"), "15169|US|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "blanks"), "15169|US|NULL");
    assert_eq!(db.one("SELECT is_bogon FROM enrich.ip_inventory WHERE ip_address = '2001:db8::1'"), "t");
    // Too long for varchar(61). The table refuses it, with or without the extension.
    let refusal = db.refused(&COWRIE.insert(&[("long", Some(&"x".repeat(62)))]));
    assert_eq!(refusal.code, "22001");
}

#[test]
fn a_malformed_row_does_not_disturb_its_neighbours() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("not an ip")),
        ("c", Some("1.1.1.1")),
        ("d", Some("")),
        ("e", Some("8.8.8.8")),
    ]));
    assert_eq!(COWRIE.snapshot(&mut db, "c"), "13335|AU|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "e"), "15169|US|NULL");
    db.run("UPDATE sessions SET ip = '1.1.1.1' WHERE id = 'b'");
    assert_eq!(COWRIE.snapshot(&mut db, "b"), "13335|AU|NULL");
    db.run("UPDATE sessions SET ip = 'gone' WHERE id = 'a'");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn one_honeypot_session_goes_through_as_cowrie_sends_it() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let id = "a1b2c3d4e5f6";
    // A scan that connects and closes: the close may arrive before the connect.
    db.run(&format!("UPDATE sessions SET endtime = now() WHERE id = '{id}'"));
    let mut rows = db
        .client
        .query(
            "INSERT INTO sessions (id, starttime, sensor, ip)
             VALUES ($1, TO_TIMESTAMP(1525169000.25), 7, $2) RETURNING id, snapshot_country",
            &[&id, &"::ffff:89.160.20.128"],
        )
        .expect("Cowrie's insert works");
    let row = rows.remove(0);
    assert_eq!(row.get::<_, String>(0).trim_end(), id);
    assert_eq!(row.get::<_, Option<String>>(1).as_deref(), Some("SE"));
    for change in ["client = 3", "termsize = '80x24'", "endtime = now()"] {
        db.run(&format!("UPDATE sessions SET {change} WHERE id = '{id}'"));
    }
    assert_eq!(COWRIE.snapshot(&mut db, id), "29518|SE|NULL");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_eq!(
        db.one(
            "SELECT ip_address, session_count, extract(epoch FROM first_seen)::bigint
             FROM enrich.ip_inventory"
        ),
        "89.160.20.128|1|1525169000"
    );
}

#[test]
fn a_second_sensor_with_the_same_id_fails_on_the_key_and_counts_nothing() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    let refusal = db.refused(&COWRIE.insert(&[("a", Some("1.1.1.1"))]));
    assert_eq!(refusal.code, "23505");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn a_time_without_zone_is_read_in_the_connections_zone() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run("SET timezone = 'America/New_York'");
    db.run(&COWRIE.insert_at("2024-01-01 00:00:00", &[("a", Some("8.8.8.8"))]));
    db.run("SET timezone = 'Asia/Tokyo'");
    db.run(&COWRIE.insert_at("2024-01-01 00:00:00", &[("b", Some("1.1.1.1"))]));
    db.run("SET timezone = 'UTC'; CALL enrich.fold_statistics()");
    assert_eq!(
        db.rows("SELECT first_seen FROM enrich.ip_inventory ORDER BY ip_address"),
        ["2023-12-31 15:00:00+00", "2024-01-01 05:00:00+00"]
    );
}

#[test]
fn a_text_column_gets_no_foreign_key_and_the_caller_is_told() {
    let mut db = database();
    COWRIE.create(&mut db);
    let refusal = db.refused("SELECT enrich.attach_session_table('sessions', 'ip', 'starttime', true)");
    assert!(refusal.hint.is_some() || refusal.detail.is_some(), "{refusal:?}");
    assert_eq!(db.number("SELECT count(*) FROM enrich.attached_tables"), 0);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM pg_attribute
             WHERE attrelid = 'sessions'::regclass AND attname LIKE 'snapshot%'"
        ),
        0
    );
    COWRIE.attach(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
}

#[test]
fn a_column_of_bytes_that_are_no_address_type_is_refused() {
    let mut db = database();
    db.run("CREATE TABLE s (id int, ip integer, at timestamptz)");
    let refusal = db.refused("SELECT enrich.attach_session_table('s', 'ip', 'at')");
    assert_eq!(refusal.code, "42804", "{refusal:?}");
}

#[test]
fn every_text_type_serves_as_address_column() {
    let mut db = database();
    for kind in ["text", "varchar", "varchar(45)", "char(45)"] {
        db.run(&format!(
            "DROP TABLE IF EXISTS s;
             CREATE TABLE s (id int PRIMARY KEY, source_ip {kind});
             SELECT enrich.attach_session_table('s');
             INSERT INTO s VALUES (1, '8.8.8.8'), (2, NULL), (3, '2a03:2880::1')"
        ));
        assert_eq!(
            db.rows("SELECT snapshot_asn, snapshot_country FROM s ORDER BY id"),
            ["15169|US", "NULL|NULL", "32934|IE"],
            "{kind}"
        );
        db.run("SELECT enrich.detach_session_table('s'); DELETE FROM s");
    }
}

#[test]
fn without_databases_sessions_are_stored_and_inventoried() {
    let cluster = server_tests::Cluster::start(&Options::named("sessions-no-mmdb"));
    server_tests::database::make_template(&cluster);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_eq!(
        db.rows("SELECT ip_address, geo_country, session_count FROM enrich.ip_inventory"),
        ["8.8.8.8|XX|1"]
    );
    // A path without a file has the same effect, and is reported.
    cluster.reconfigure(&[
        "cowrie_enrich.city_database = '/nonexistent/city.mmdb'".to_owned(),
        "cowrie_enrich.asn_database = '/nonexistent/asn.mmdb'".to_owned(),
    ]);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn attaching_puts_the_databases_into_service() {
    let cluster = cluster_with_unread_world(&Options::named("sessions-unread"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    // The first use of the extension is a session, in this connection and in another.
    db.another().run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run(&COWRIE.insert(&[("b", Some("1.1.1.1"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "b"), "13335|AU|NULL");
}

#[test]
fn a_corrupted_inventory_loses_no_session() {
    let cluster = cluster_with_world(&Options::named("sessions-corrupted"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    let files = db.rows(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class c
         WHERE c.oid IN ('enrich.ip_inventory'::regclass, 'enrich.asn_inventory'::regclass)
            OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid
                IN ('enrich.ip_inventory'::regclass, 'enrich.asn_inventory'::regclass))",
    );
    let name = db.name.clone();
    drop(db);
    cluster.stop_fast();
    for file in files {
        let path = cluster.data_dir().join(file);
        let length = std::fs::metadata(&path).expect("the file is there").len();
        std::fs::write(&path, vec![0x5a; length as usize]).expect("it can be overwritten");
    }
    cluster.start_again();
    let mut db = cluster.session(&name);
    for (key, address) in [("b", "8.8.8.8"), ("c", "1.1.1.1"), ("d", "48.0.0.1")] {
        db.run(&COWRIE.insert_at(NOON, &[(key, Some(address))]));
    }
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 4);
    assert!(db.number("SELECT errors FROM enrich.enrich_stats()") > 0);
}

#[test]
fn failing_statements_of_ours_are_counted() {
    let cluster = cluster_with_world(&Options::named("sessions-errors"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run("SELECT enrich.reset_enrich_stats()");
    db.run("ALTER TABLE enrich.ip_inventory ADD CHECK (false) NOT VALID");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    assert!(db.number("SELECT errors FROM enrich.enrich_stats()") > 0);
    // A rollback may remove the errors of its own transaction from the count, but the counter must not become lower
    // than before.
    let before = db.number("SELECT errors FROM enrich.enrich_stats()");
    db.run(&format!("BEGIN; {}; ROLLBACK", COWRIE.insert(&[("b", Some("1.1.1.1"))])));
    assert!(db.number("SELECT errors FROM enrich.enrich_stats()") >= before);
}
