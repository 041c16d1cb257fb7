//! Backfill of old sessions: their contribution to the inventories, their snapshots, and calls that are interrupted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, Host, NOON, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::crowd_address;
use server_tests::{Database, Options, Session, database, fresh_database, wait_until};

const BOTH: [&Host; 2] = [&COWRIE, &SUMMARIES];

/// Stores this number of sessions of the crowd before the table is attached.
fn crowd_of_old(host: &Host, db: &mut Session, sessions: u64, addresses: u64) {
    let mut random = Random::seeded(sessions);
    let mut lines = String::new();
    for number in 0..sessions {
        let address = crowd_address(&mut random, addresses);
        lines.push_str(&format!("old{number}\t2024-04-{:02} 12:00:00+00\t{address}\n", number % 28 + 1));
    }
    db.copy(&format!("{} ({}, {}, {})", host.table, host.key, host.time, host.address), &lines);
}

fn backfill(host: &Host) -> String {
    format!("CALL enrich.backfill_sessions('{}', progress => false)", host.table)
}

/// Returns a value that the last call reported.
#[track_caller]
fn reported(db: &mut Session, what: &str) -> i64 {
    db.number(&format!(
        "SELECT result ->> '{what}' FROM enrich.procedure_call WHERE procedure = 'backfill_sessions'"
    ))
}

#[test]
fn old_sessions_fill_the_inventories_and_their_snapshots() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        db.run(&host.insert_at("2024-05-03 00:00:00+00", &[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
        db.run(&host.insert_at("2024-05-01 00:00:00+00", &[("c", Some("8.8.8.8")), ("d", Some("10.0.0.1"))]));
        db.run(&host.insert_at("2024-05-02 00:00:00+00", &[("e", Some("48.0.0.1")), ("f", None)]));
        host.attach(&mut db);
        db.run(&backfill(host));
        assert_eq!(
            db.rows(
                "SELECT ip_address, current_asn, geo_country, session_count, is_bogon,
                        first_seen AT TIME ZONE 'UTC', last_seen AT TIME ZONE 'UTC'
                 FROM enrich.ip_inventory ORDER BY 1"
            ),
            [
                "1.1.1.1|13335|AU|1|f|2024-05-03 00:00:00|2024-05-03 00:00:00",
                "8.8.8.8|15169|US|2|f|2024-05-01 00:00:00|2024-05-03 00:00:00",
                "10.0.0.1|NULL|XX|1|t|2024-05-01 00:00:00|2024-05-01 00:00:00",
                "48.0.0.1|NULL|XX|1|f|2024-05-02 00:00:00|2024-05-02 00:00:00",
            ]
        );
        assert_eq!(
            db.rows(
                "SELECT asn_number, unique_ip_count, total_session_count, first_seen AT TIME ZONE 'UTC'
                     FROM enrich.asn_inventory ORDER BY 1"
            ),
            ["13335|1|1|2024-05-03 00:00:00", "15169|1|2|2024-05-01 00:00:00"]
        );
        assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
        assert_eq!(host.snapshot(&mut db, "c"), "15169|US|NULL");
        for key in ["d", "e", "f"] {
            assert_eq!(host.snapshot(&mut db, key), "NULL|NULL|NULL", "{key}");
        }
        assert_eq!(
            db.one(&format!(
                "SELECT enrichment #>> '{{maxmind,city}}', enrichment ? '_meta', enrichment_at IS NULL
                 FROM {} WHERE {} = 'a'",
                host.table, host.key
            )),
            "Mountain View|f|f"
        );
        for (what, number) in [
            ("scanned", 6),
            ("sessions", 5),
            ("addresses_created", 4),
            ("networks_created", 2),
            ("sessions_completed", 3),
            ("held", 0),
            ("malformed", 0),
            ("orphans", 0),
        ] {
            assert_eq!(reported(&mut db, what), number, "{what}");
        }
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        assert_eq!(db.number("SELECT count(*) FROM enrich.enrich_progress"), 0);

        // A second call changes nothing.
        let state = format!(
            "SELECT (SELECT string_agg(concat(ctid, xmin), ',') FROM {}),
                    (SELECT string_agg(concat(ctid, xmin), ',') FROM enrich.ip_inventory),
                    (SELECT string_agg(concat(ctid, xmin), ',') FROM enrich.asn_inventory)",
            host.table
        );
        let before = db.one(&state);
        db.run(&backfill(host));
        assert_eq!(db.one(&state), before);
    }
}

/// Creates the analysts' table, trusted, with documents of another system: key, address, document.
fn documented(db: &mut Session, rows: &[(&str, &str, &str)]) {
    SUMMARIES.create(db);
    db.run("ALTER TABLE session_summaries ADD enrichment jsonb");
    for (key, address, document) in rows {
        db.run(&format!(
            "INSERT INTO session_summaries (session_id, first_event_at, source_ip, enrichment)
             VALUES ('{key}', '{NOON}', '{address}', '{document}')"
        ));
    }
    SUMMARIES.attach(db);
    db.run("SELECT enrich.set_session_table_options('session_summaries', NULL, true)");
}

#[test]
fn what_sessions_quote_is_kept_where_the_files_know_nothing() {
    let mut db = database();
    documented(
        &mut db,
        &[
            (
                "old",
                "48.0.0.1",
                r#"{"cymru": {"asn": 64500, "asn_org": "OLD", "country": "FR", "cached_at": "2024-01-01T00:00:00+00:00"},
                    "greynoise": {"noise": true, "cached_at": "2024-03-01T00:00:00+00:00"}}"#,
            ),
            (
                "new",
                "48.0.0.1",
                r#"{"cymru": {"asn": "AS64501", "asn_org": "NEW, FR", "country": "FR", "registry": "ripencc",
                              "cached_at": "2024-02-01T00:00:00+00:00"},
                    "greynoise": {"noise": false, "cached_at": "2024-02-01T00:00:00+00:00"}}"#,
            ),
            ("bare", "48.0.0.1", "{}"),
            (
                "nested",
                "48.0.0.2",
                r#"{"session": {"48.0.0.2": {"dshield": {"ip": {"ascountry": "PL"}},
                                             "spur": {"tunnels": [{"type": "VPN"}]}}}, "password": {}}"#,
            ),
            // The mmdb files know these addresses.
            (
                "known",
                "8.8.8.8",
                r#"{"maxmind": {"asn": 1, "country": "FR", "cached_at": "2030-01-01T00:00:00+00:00"},
                    "cymru": {"asn": 2, "country": "FR", "cached_at": "2024-01-01T00:00:00+00:00"}}"#,
            ),
            ("placed", "48.0.0.3", r#"{"maxmind": {"asn": 64502, "asn_org": "PLACED", "country": "FR"}}"#),
        ],
    );
    db.run(&backfill(&SUMMARIES));
    assert_eq!(
        db.rows(
            "SELECT ip_address, current_asn, geo_country, ip_types, is_scanner,
                    enrichment #>> '{cymru,asn_org}', enrichment #>> '{_meta,cymru,state}'
             FROM enrich.ip_inventory ORDER BY 1"
        ),
        [
            // MaxMind's network takes precedence over Team Cymru's, whose other values are kept.
            "8.8.8.8|15169|US|{}|f|NULL|value",
            "48.0.0.1|64501|FR|{}|t|NEW, FR|value",
            "48.0.0.2|NULL|PL|{VPN}|f|NULL|NULL",
            "48.0.0.3|64502|FR|{}|f|NULL|NULL",
        ]
    );
    // If the session has values from the time of the attack, these are kept.
    for (key, snapshot) in [
        ("old", "64500|FR|NULL"),
        ("new", "64501|FR|NULL"),
        ("bare", "64501|FR|NULL"),
        ("nested", "NULL|PL|VPN"),
        ("known", "1|FR|NULL"),
        ("placed", "64502|FR|NULL"),
    ] {
        assert_eq!(SUMMARIES.snapshot(&mut db, key), snapshot, "{key}");
    }
    assert_eq!(
        db.rows(
            "SELECT asn_number, organization_name, organization_country, rir_registry,
                    enrichment #>> '{provenance,organization_name}', unique_ip_count, first_seen AT TIME ZONE 'UTC'
             FROM enrich.asn_inventory WHERE asn_number > 60000 ORDER BY 1"
        ),
        [
            "64500|OLD|FR|NULL|document|0|2024-05-01 12:00:00",
            "64501|NEW|FR|RIPE|document|1|2024-05-01 12:00:00",
            "64502|PLACED|FR|NULL|document|1|2024-05-01 12:00:00",
        ]
    );
    // The time of the answer is stored, so that later code can decide on a new request.
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{greynoise,cached_at}', enrichment #>> '{_meta,greynoise,asked_at}',
                    enrich.is_source_open(enrichment, 'cymru', false)
             FROM enrich.ip_inventory WHERE ip_address = '48.0.0.1'"
        ),
        "2024-03-01T00:00:00+00:00|2024-03-01T00:00:00.000000+00:00|f"
    );
    // A provider with an answer gets no new request, however old the answer is. Team Cymru gets requests only for
    // networks.
    assert_eq!(
        db.rows(
            "SELECT ip_address, string_agg(provider, ',' ORDER BY provider) FROM enrich.enrichment_request
             GROUP BY 1 ORDER BY 1"
        ),
        ["48.0.0.2|cymru"]
    );
    // An answer without a date is as old as its session.
    assert_eq!(
        db.one("SELECT enrichment #>> '{_meta,spur,asked_at}' FROM enrich.ip_inventory WHERE ip_address = '48.0.0.2'"),
        "2024-05-01T12:00:00.000000+00:00"
    );
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn older_words_replace_no_newer_ones() {
    let mut db = database();
    documented(
        &mut db,
        &[("a", "48.0.0.1", r#"{"greynoise": {"noise": true, "cached_at": "2024-01-01T00:00:00+00:00"}}"#)],
    );
    db.run(
        r#"SELECT enrich.enrich_ip('48.0.0.1');
           UPDATE enrich.ip_inventory SET enrichment = enrichment ||
           '{"greynoise": {"noise": false, "cached_at": "2024-02-01T00:00:00+00:00"}}'"#,
    );
    db.run(&backfill(&SUMMARIES));
    assert_eq!(db.one("SELECT is_scanner FROM enrich.ip_inventory"), "f");
    db.run(
        r#"UPDATE enrich.ip_inventory SET enrichment = jsonb_set(enrichment, '{greynoise,cached_at}', '"2023-12-01T00:00:00Z"')"#,
    );
    db.run(&backfill(&SUMMARIES));
    assert_eq!(db.one("SELECT is_scanner FROM enrich.ip_inventory"), "t");
}

/// Malformed documents, one of every kind. An `@` stands for the address.
const MALFORMED: [&str; 20] = [
    "[]",
    "null",
    "true",
    "17",
    "\"text\"",
    "[{\"cymru\": {}}]",
    "{\"maxmind\": []}",
    "{\"maxmind\": \"US\"}",
    "{\"cymru\": 15169}",
    "{\"cymru\": true, \"maxmind\": false}",
    "{\"cymru\": {\"asn\": true}}",
    "{\"cymru\": {\"asn\": {\"number\": 1}}}",
    "{\"cymru\": {\"asn\": -5}}",
    "{\"maxmind\": {\"asn\": 4294967296}}",
    "{\"maxmind\": {\"asn\": 1.5, \"country\": [\"US\"]}}",
    "{\"maxmind\": {\"country\": \"Germany\"}}",
    "{\"spur\": [\"\", \"\"]}",
    "{\"greynoise\": 404, \"dshield\": \"error\"}",
    "{\"session\": []}",
    "{\"session\": {\"@\": \"none\"}}",
];

#[test]
fn a_thousand_malformed_documents_are_counted_and_listed() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("ALTER TABLE session_summaries ADD enrichment jsonb");
    for number in 0..1000 {
        let address = format!("48.0.{}.{}", number / 250, number % 250);
        let document = MALFORMED[number % MALFORMED.len()].replace('@', &address);
        db.run(&format!(
            "INSERT INTO session_summaries (session_id, first_event_at, source_ip, enrichment)
             VALUES ('m{number}', '{NOON}', '{address}', '{document}')"
        ));
    }
    // A part that is far too large, and a list with far too many characters.
    db.run(&format!(
        "INSERT INTO session_summaries (session_id, first_event_at, source_ip, enrichment)
         SELECT 'large', '{NOON}', '48.0.9.1', jsonb_build_object('spur', jsonb_build_object('risks', repeat('x', 100000)))"
    ));
    db.run(&SUMMARIES.insert(&[("good", Some("8.8.8.8"))]));
    SUMMARIES.attach(&mut db);
    db.run("CALL enrich.backfill_sessions('session_summaries', 100, false)");
    assert_eq!(reported(&mut db, "malformed"), 1001);
    assert_eq!(
        db.number(
            "SELECT count(DISTINCT row_key) FROM enrich.rejected_row WHERE procedure = 'backfill_sessions'"
        ),
        1001
    );
    assert_eq!(
        db.rows("SELECT relation, reason, content FROM enrich.rejected_row WHERE row_key IN ('m10', 'm17') ORDER BY 2"),
        [
            "public.session_summaries|cymru.asn is true, not an ASN|{\"cymru\": {\"asn\": true}}",
            "public.session_summaries|key \"dshield\" in column \"enrichment\" is not a JSON object|{\"dshield\": \"error\", \"greynoise\": 404}",
            "public.session_summaries|key \"greynoise\" in column \"enrichment\" is not a JSON object|{\"dshield\": \"error\", \"greynoise\": 404}",
        ]
    );
    assert_eq!(db.one("SELECT content FROM enrich.rejected_row WHERE row_key = 'large'"), "NULL");
    assert_eq!(SUMMARIES.snapshot(&mut db, "good"), "15169|US|NULL");
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 1002);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// Stores as many documents as a batch has, each with a part of the maximum size. The procedure must keep only the
/// shortened texts of rejected rows in memory.
#[test]
fn large_malformed_documents_do_not_fill_the_memory() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(&format!(
        "ALTER TABLE session_summaries ADD enrichment jsonb;
         INSERT INTO session_summaries (session_id, first_event_at, source_ip, enrichment)
         SELECT n, '{NOON}', '48.0.0.1', jsonb_build_object('cymru', 7, 'note', repeat('x', 60000))
         FROM generate_series(1, 4000) n"
    ));
    SUMMARIES.attach(&mut db);
    let mut caller = db.another();
    let pid = caller.backend_pid();
    caller.run(&backfill(&SUMMARIES));
    assert_eq!(reported(&mut db, "malformed"), 4_000);
    let peak = server_tests::cymru::peak_memory(pid);
    assert!(peak < 150_000, "{peak} kB for documents of 240 MB");
}

#[test]
fn malformed_addresses_are_listed_by_their_key() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("not an ip")), ("c", Some("8.8.8.0/24"))]));
    COWRIE.attach(&mut db);
    db.run(&backfill(&COWRIE));
    assert_eq!(reported(&mut db, "malformed"), 2);
    assert_eq!(
        db.rows("SELECT row_key, reason, content FROM enrich.rejected_row ORDER BY 1"),
        [
            "b|the value of the address column is not an address|not an ip",
            "c|the value of the address column is not an address|8.8.8.0/24"
        ]
    );
    // The list has the row's ctid if the table lacks a key.
    db.run("DELETE FROM enrich.rejected_row; ALTER TABLE sessions DROP CONSTRAINT sessions_pkey");
    db.run(&backfill(&COWRIE));
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.rejected_row r JOIN sessions s ON r.row_key = s.ctid::text"),
        2
    );
}

#[test]
fn snapshots_that_have_a_value_keep_it() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.8")), ("c", Some("8.8.8.8"))]));
        db.run(&format!(
            "ALTER TABLE {t} ADD snapshot_asn bigint, ADD snapshot_country varchar(2), ADD enrichment jsonb,
                 ADD enrichment_at timestamptz;
             UPDATE {t} SET snapshot_asn = 7 WHERE {k} = 'a';
             UPDATE {t} SET snapshot_country = 'FR', enrichment = '{{\"mine\": 1}}' WHERE {k} = 'b';
             UPDATE {t} SET enrichment_at = '2020-01-01 00:00:00Z' WHERE {k} = 'c'",
            t = host.table,
            k = host.key
        ));
        host.attach(&mut db);
        db.run(&backfill(host));
        assert_eq!(
            db.rows(&format!(
                "SELECT snapshot_asn, snapshot_country, enrichment ->> 'mine', enrichment ? 'maxmind', extract(year FROM enrichment_at) = 2020
                 FROM {} ORDER BY {}",
                host.table, host.key
            )),
            ["7|US|NULL|t|f", "15169|FR|1|f|f", "15169|US|NULL|t|t"]
        );
        // A later backfill changes nothing either.
        db.run("UPDATE enrich.ip_inventory SET current_asn = NULL, enrichment = '{}'");
        db.run(&backfill(host));
        assert_eq!(host.snapshot(&mut db, "b"), "15169|FR|NULL");
    }
}

#[test]
fn callers_mistakes_are_refused() {
    let mut db = database();
    COWRIE.create(&mut db);
    let refused = |db: &mut Session, sql: &str| {
        let refusal = db.refused(sql);
        (refusal.code, refusal.message)
    };
    let code = |db: &mut Session, sql: &str| refused(db, sql).0;
    assert_eq!(
        refused(&mut db, "CALL enrich.backfill_sessions('sessions')"),
        ("55000".to_owned(), "\"sessions\" is not an attached session table".to_owned())
    );
    COWRIE.attach(&mut db);
    for (arguments, expected) in [
        ("NULL", "22004"),
        ("'sessions', NULL", "22004"),
        ("'sessions', 10, NULL", "22004"),
        ("'sessions', 0", "22023"),
        ("'sessions', 1000001", "22023"),
        ("1::oid", "55000"),
    ] {
        assert_eq!(
            code(&mut db, &format!("CALL enrich.backfill_sessions({arguments})")),
            expected,
            "{arguments}"
        );
    }
    let refusal = refused(&mut db, "BEGIN; CALL enrich.backfill_sessions('sessions')");
    assert_eq!(
        refusal,
        ("25001".to_owned(), "backfill_sessions() cannot run inside a transaction block".to_owned())
    );
    db.run("ROLLBACK");
    let role = db.own_name("stranger");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT EXECUTE ON PROCEDURE enrich.backfill_sessions TO {role}; GRANT ALL ON sessions TO {role}"
    ));
    let mut stranger = db.session_as(&role);
    assert_eq!(code(&mut stranger, "CALL enrich.backfill_sessions('sessions')"), "42501");
    // The owner of the table needs no rights on the inventories.
    db.run(&format!("ALTER TABLE sessions OWNER TO {role}"));
    db.run("ALTER TABLE sessions DISABLE TRIGGER USER");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    stranger.run("CALL enrich.backfill_sessions('sessions')");
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    drop(stranger);
    db.run(&format!("ALTER TABLE sessions OWNER TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Runs a backfill of small batches in a separate thread. `meanwhile` gets its process id.
fn while_it_runs(
    db: &Database<'_>,
    host: &Host,
    meanwhile: impl FnOnce(&mut Session, i64),
) -> Result<(), server_tests::Refusal> {
    let mut caller = db.another();
    let pid = caller.backend_pid();
    let mut watcher = db.another();
    let call = format!("CALL enrich.backfill_sessions('{}', 1, false)", host.table);
    std::thread::scope(|scope| {
        let running = scope.spawn(move || caller.try_run(&call));
        meanwhile(&mut watcher, pid);
        running.join().expect("the call ends")
    })
}

#[test]
fn it_is_seen_while_it_runs_and_refuses_a_second_call_and_can_be_cancelled() {
    let mut db = database();
    COWRIE.create(&mut db);
    crowd_of_old(&COWRIE, &mut db, 20_000, 20_000);
    COWRIE.attach(&mut db);
    let ended = while_it_runs(&db, &COWRIE, |watcher, pid| {
        let seen = wait_until(
            "the call is seen at work",
            || {
                watcher.rows(
                    "SELECT relation, pid, phase, done > 0 AND done < total, rate > 0, estimated_end > started_at
                     FROM enrich.enrich_progress WHERE done > 0",
                )
            },
            |rows| !rows.is_empty(),
        );
        assert_eq!(seen, [format!("sessions|{pid}|addresses|t|t|t")]);
        let refusal = watcher.refused("CALL enrich.backfill_sessions('sessions')");
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str()),
            ("55006", "backfill_sessions() is already running")
        );
        watcher.run(&format!("SELECT pg_cancel_backend({pid})"));
    });
    assert_eq!(ended.expect_err("it was cancelled").code, "57014");
    let left = db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL");
    assert!(left > 0, "nothing was left when it was cancelled");
    assert_eq!(db.one("SELECT resume_at ->> 'pass' FROM enrich.procedure_call"), "addresses");
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrich_progress"), 0);
    db.run(&backfill(&COWRIE));
    let scanned = reported(&mut db, "scanned");
    assert!(
        (1..20_000).contains(&scanned),
        "the second call read {scanned} sessions: it began anew, or did nothing"
    );
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn partitions_are_filled_each() {
    let mut db = database();
    db.run(
        "CREATE TABLE p (id bigint, at timestamptz, source_ip inet) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN (101);
         CREATE TABLE p2b (source_ip inet, id bigint, at timestamptz);
         ALTER TABLE p2 ATTACH PARTITION p2b DEFAULT;
         INSERT INTO p SELECT n, '2024-05-01 12:00:00+00', CASE n % 2 WHEN 0 THEN '8.8.8.8' ELSE '1.1.1.1' END::inet
         FROM generate_series(90, 109) n;
         SELECT enrich.attach_session_table('p', time_column => 'at')",
    );
    db.run("CALL enrich.backfill_sessions('p')");
    assert_eq!(
        db.rows("SELECT tableoid::regclass::text, snapshot_asn, count(*) FROM p GROUP BY 1, 2 ORDER BY 1, 2"),
        ["p1|13335|5", "p1|15169|5", "p2a|13335|1", "p2b|13335|4", "p2b|15169|5"]
    );
    assert_eq!(db.number("SELECT result ->> 'scanned' FROM enrich.procedure_call"), 20);
    assert_counts_are_exact(&mut db, &[("p", "source_ip")]);
    let refusal = db.refused("CALL enrich.backfill_sessions('p1')");
    assert_eq!(refusal.code, "55000");
}

#[test]
fn sessions_that_their_table_refuses_are_listed_and_keep_nobody_else_from_being_filled() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        crowd_of_old(host, &mut db, 500, 40);
        db.run(&host.insert(&[
            ("bad1", Some("8.8.8.8")),
            ("bad2", Some("8.8.4.4")),
            ("good", Some("1.1.1.1")),
        ]));
        host.attach(&mut db);
        db.run(&format!(
            "ALTER TABLE {} ADD CONSTRAINT nobody_at_home CHECK (snapshot_asn <> 15169)",
            host.table
        ));
        db.run("SELECT enrich.ensure_asn_inventory(15169)");
        db.run("INSERT INTO enrich.ip_inventory (ip_address, current_asn) VALUES ('8.8.4.4', 15169)");
        db.run(&backfill(host));
        assert_eq!(
            db.rows("SELECT trim(row_key), content FROM enrich.rejected_row ORDER BY 1"),
            ["bad1|8.8.8.8", "bad2|8.8.4.4"]
        );
        assert!(db.one("SELECT min(reason) FROM enrich.rejected_row").contains("nobody_at_home"));
        assert_eq!(reported(&mut db, "sessions_completed"), 501);
        assert_eq!(host.snapshot(&mut db, "good"), "13335|AU|NULL");
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

#[test]
fn sessions_that_somebody_holds_are_passed_over_and_counted() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.9"))]));
        host.attach(&mut db);
        let mut holder = db.another();
        holder.run(&format!("BEGIN; SELECT FROM {} WHERE {} = 'a' FOR UPDATE", host.table, host.key));
        db.run("SET statement_timeout = '20s'");
        db.run(&backfill(host));
        assert_eq!(reported(&mut db, "held"), 1);
        assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
        assert_eq!(host.snapshot(&mut db, "b"), "15169|US|NULL");
        holder.run("COMMIT");
        db.run(&backfill(host));
        assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
        assert_eq!(reported(&mut db, "held"), 0);
    }
}

#[test]
fn a_table_that_is_rewritten_is_read_from_the_beginning() {
    let mut db = database();
    COWRIE.create(&mut db);
    crowd_of_old(&COWRIE, &mut db, 5_000, 5_000);
    COWRIE.attach(&mut db);
    let ended = while_it_runs(&db, &COWRIE, |watcher, pid| {
        wait_until(
            "it is at work",
            || watcher.number("SELECT coalesce(max(done), 0) FROM enrich.enrich_progress"),
            |done| *done > 0,
        );
        watcher.run(&format!("SELECT pg_terminate_backend({pid})"));
    });
    // The client got the message, or the connection was closed before the client read it.
    let code = ended.expect_err("it was terminated").code;
    assert!(["57P01", "08006"].contains(&code.as_str()), "{code}");
    wait_until("it is gone", || db.number("SELECT count(*) FROM enrich.enrich_progress"), |left| *left == 0);
    db.run("VACUUM FULL sessions");
    db.run(&backfill(&COWRIE));
    assert_eq!(reported(&mut db, "scanned"), 5_000);
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NULL"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// The call is killed in its second pass. Then the table is emptied and filled again without triggers.
#[test]
fn a_table_that_was_filled_anew_is_read_anew_for_addresses_too() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    COWRIE.attach(&mut db);
    db.run(&backfill(&COWRIE));
    db.run(
        r#"UPDATE enrich.procedure_call SET ended_at = NULL, result = NULL, resume_at = jsonb_build_object(
               'pass', 'sessions', 'table', relation::bigint, 'file', pg_relation_filenode('sessions')::bigint, 'page', 0);
           TRUNCATE sessions; SET session_replication_role = replica"#,
    );
    db.run(&COWRIE.insert(&[("b", Some("1.1.1.1"))]));
    db.run("RESET session_replication_role");
    db.run(&backfill(&COWRIE));
    assert_eq!(reported(&mut db, "scanned"), 1);
    assert_eq!(COWRIE.snapshot(&mut db, "b"), "13335|AU|NULL");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// The statements of one writer. None of them may fail or wait long.
fn write_on(mut session: Session, host: &Host, writer: u64, old: u64, ended: &AtomicBool) -> u64 {
    let mut random = Random::seeded(writer + 77);
    let (table, key, address) = (host.table, host.key, host.address);
    let mut statements = 0;
    while !ended.load(Ordering::Relaxed) {
        let victim = format!("old{}", random.below(old));
        let own = format!("w{writer}_{}", random.below(400));
        session.run(&match random.below(6) {
            0..3 => format!(
                "{} ON CONFLICT ({key}) DO UPDATE SET {address} = EXCLUDED.{address}",
                host.insert(&[(&own, Some(&crowd_address(&mut random, 900)))])
            ),
            3 => format!(
                "UPDATE {table} SET {address} = '{}' WHERE {key} = '{victim}'",
                crowd_address(&mut random, 900)
            ),
            4 => format!("DELETE FROM {table} WHERE {key} IN ('{victim}', '{own}')"),
            _ => format!("UPDATE {table} SET {t} = {t} WHERE {key} = '{victim}'", t = host.time),
        });
        statements += 1;
    }
    statements
}

#[test]
fn beside_writers_everything_is_counted_and_nobody_fails() {
    const OLD: u64 = 6_000;
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        crowd_of_old(host, &mut db, OLD, 800);
        host.attach(&mut db);
        let ended = AtomicBool::new(false);
        let written = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let session = db.another();
                let (ended, written) = (&ended, &written);
                scope.spawn(move || {
                    let statements = write_on(session, host, writer, OLD, ended);
                    written.fetch_add(statements, Ordering::Relaxed);
                });
            }
            let mut caller = db.another();
            for size in [50, 500, 10_000] {
                let called = caller
                    .try_run(&format!("CALL enrich.backfill_sessions('{}', {size}, false)", host.table));
                if called.is_err() {
                    ended.store(true, Ordering::Relaxed);
                }
                called.expect("the call succeeds");
            }
            ended.store(true, Ordering::Relaxed);
        });
        eprintln!("{}: {} statements meanwhile", host.table, written.load(Ordering::Relaxed));
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        assert_eq!(
            db.rows(&format!(
                "SELECT DISTINCT {a}::text FROM {t} s WHERE {a}::text <> '' AND NOT EXISTS
                     (SELECT FROM enrich.ip_inventory i WHERE i.ip_address = enrich.session_address(s.{a}))",
                t = host.table,
                a = host.address
            )),
            Vec::<String>::new()
        );
        // When no session is locked, the backfill fills the remaining sessions.
        db.run(&backfill(host));
        assert_eq!(
            db.number(&format!(
                "SELECT count(*) FROM {} WHERE {}::text <> '' AND snapshot_asn IS NULL",
                host.table, host.address
            )),
            0
        );
    }
}

/// Returns everything that a backfill writes, without times of the call.
fn left_by_it(db: &mut Session, host: &Host) -> Vec<String> {
    let mut all = Vec::new();
    for query in [
        "SELECT ip_address, current_asn, first_seen, last_seen, session_count, geo_country, ip_types, is_scanner, is_bogon,
                (enrichment - '_meta') #- '{maxmind,cached_at}', enrichment #- '{_meta,maxmind,asked_at}' -> '_meta'
         FROM enrich.ip_inventory ORDER BY 1"
            .to_owned(),
        "SELECT asn_number, organization_name, organization_country, rir_registry, asn_type, first_seen, last_seen,
                unique_ip_count, total_session_count, enrichment
         FROM enrich.asn_inventory ORDER BY 1"
            .to_owned(),
        "SELECT ip_address, asn_number, verification_source FROM enrich.ip_asn_history ORDER BY 1, 2".to_owned(),
        format!(
            "SELECT {}, snapshot_asn, snapshot_country, snapshot_ip_type, enrichment #- '{{maxmind,cached_at}}',
                    enrichment_at IS NULL FROM {} ORDER BY 1",
            host.key, host.table
        ),
        "SELECT relation, row_key, reason, content FROM enrich.rejected_row ORDER BY 1, 2, 3".to_owned(),
    ] {
        all.extend(db.rows(&query));
    }
    all
}

/// Stores old sessions of addresses in the mmdb files and of others, half of them with documents.
fn documented_crowd(db: &mut Session, sessions: u64) {
    SUMMARIES.create(db);
    db.run("ALTER TABLE session_summaries ADD enrichment jsonb");
    let mut random = Random::seeded(5);
    let mut lines = String::new();
    for number in 0..sessions {
        let address = if random.one_in(2) {
            crowd_address(&mut random, 600)
        } else {
            format!("48.0.{}.{}", random.below(3), random.below(200))
        };
        let day = random.below(28) + 1;
        let document = match random.below(5) {
            0 => "\\N".to_owned(),
            1 => "[]".to_owned(),
            _ => format!(
                "{{\"cymru\": {{\"asn\": {asn}, \"asn_org\": \"ORG{asn}\", \"country\": \"FR\", \"cached_at\": \"2024-01-{day:02}T00:00:00Z\"}}, \"greynoise\": {{\"noise\": {noise}, \"cached_at\": \"2024-01-{day:02}T00:00:00Z\"}}}}",
                asn = 64_500 + day,
                noise = day.is_multiple_of(2)
            ),
        };
        lines.push_str(&format!("old{number}\t2024-04-{day:02} 12:00:00+00\t{address}\t{document}\n"));
    }
    db.copy("session_summaries (session_id, first_event_at, source_ip, enrichment)", &lines);
    SUMMARIES.attach(db);
}

#[test]
fn however_often_it_is_killed_the_result_is_that_of_one_clean_run() {
    const SESSIONS: u64 = 12_000;
    const KILLS: usize = 6;
    let seed = std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    let mut random = Random::seeded(seed);
    let cluster = cluster_with_world(&Options::named("backfill_kills").conf("restart_after_crash = on"));
    let mut clean = fresh_database(&cluster);
    documented_crowd(&mut clean, SESSIONS);
    clean.run("CALL enrich.backfill_sessions('session_summaries', 100, false)");
    let expected = left_by_it(&mut clean, &SUMMARIES);
    drop(clean);

    let mut db = fresh_database(&cluster);
    documented_crowd(&mut db, SESSIONS);
    let name = db.name.clone();
    drop(db);
    let mut phases = Vec::new();
    // Some calls end before they are killed. Such a call is also a test: it must change nothing.
    for _ in 0..10 * KILLS {
        if phases.len() == KILLS {
            break;
        }
        let mut caller = cluster.session(&name);
        let pid = caller.backend_pid();
        let mut watcher = cluster.session(&name);
        // Kills after this number of further batches.
        let batches = random.below(70) + 1;
        // The backend can be killed even if the call has just ended.
        let running = std::thread::spawn(move || {
            (caller.try_run("CALL enrich.backfill_sessions('session_summaries', 100, false)"), caller)
        });
        let mut seen = std::collections::BTreeSet::new();
        let phase = wait_until(
            "the call has come so far, or to its end",
            || {
                let row = watcher.rows("SELECT phase, done FROM enrich.enrich_progress");
                seen.extend(row.first().cloned());
                (seen.len() as u64, row, running.is_finished())
            },
            |(seen, _, finished)| *finished || *seen >= batches,
        );
        drop(watcher);
        if phase.2 {
            running.join().expect("the thread ends").0.expect("the call succeeds");
            continue;
        }
        cluster.kill_backend(pid);
        if running.join().expect("the thread ends").0.is_err() {
            phases.push(phase.1.join(""));
        }
    }
    eprintln!("killed in: {phases:?}");
    assert_eq!(phases.len(), KILLS, "it was too quick to be killed");
    let mut db = cluster.session(&name);
    db.run("CALL enrich.backfill_sessions('session_summaries', 100, false)");
    let left = left_by_it(&mut db, &SUMMARIES);
    assert_eq!(left.len(), expected.len());
    for (is, should) in left.iter().zip(&expected) {
        assert_eq!(is, should, "after kills (left) and after one clean run");
    }
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn whatever_the_callers_settings_are_it_works() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    COWRIE.attach(&mut db);
    db.run(
        "CREATE SCHEMA trap; CREATE FUNCTION trap.host(inet) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text';
         SET search_path = trap, public; SET default_transaction_isolation = 'serializable'; SET enable_tidscan = off;
         SET session_replication_role = replica",
    );
    db.run("CALL enrich.backfill_sessions('public.sessions')");
    db.run("RESET ALL");
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    db.run("SET default_transaction_read_only = on");
    assert_eq!(db.refused("CALL enrich.backfill_sessions('sessions')").code, "25006");
}

#[test]
fn what_an_owner_put_on_their_table_runs_as_them_whoever_calls() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    COWRIE.attach(&mut db);
    let role = db.own_name("owner");
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role};
         CREATE TABLE seen (who name, may_set_role bool);
         CREATE FUNCTION look(bigint) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN
                 SET ROLE postgres;
                 INSERT INTO public.seen VALUES (current_user, true);
             EXCEPTION WHEN insufficient_privilege THEN
                 INSERT INTO public.seen VALUES (current_user, false);
             END;
             RETURN true;
         END $$;
         CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.seen VALUES (current_user, NULL); RETURN NEW; END $$;
         CREATE TRIGGER a_trap BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION trap();
         ALTER TABLE sessions ADD CONSTRAINT looked CHECK (look(snapshot_asn)) NOT VALID;
         ALTER TABLE sessions OWNER TO {role}; ALTER TABLE seen OWNER TO {role}"
    ));
    db.run(&backfill(&COWRIE));
    assert_eq!(
        db.rows("SELECT DISTINCT * FROM seen ORDER BY 2"),
        [format!("{role}|f"), format!("{role}|NULL")],
        "the constraint and the trigger"
    );
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    db.run(&format!("ALTER TABLE sessions OWNER TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// There are more addresses than are looked up together. Their inventory rows were rewritten before, so the index has
/// dead entries.
#[test]
fn many_addresses_with_quotes_are_filled_and_validated() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(
        r#"ALTER TABLE session_summaries ADD enrichment jsonb;
           INSERT INTO session_summaries (session_id, first_event_at, source_ip, enrichment)
           SELECT n, '2024-05-01', '48.0.0.0'::inet + n % 9000 + 1,
                  jsonb_build_object('cymru', jsonb_build_object('asn', 64500 + n % 9000 % 7, 'cached_at', '2024-01-01T00:00:00Z'))
           FROM generate_series(1, 12000) n;
           UPDATE session_summaries SET enrichment = NULL WHERE session_id::int % 5 = 0;
           SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true, trust_input => true)"#,
    );
    db.run("CALL enrich.backfill_sessions('session_summaries', 20000, false)");
    assert_eq!(reported(&mut db, "addresses_created"), 9000);
    assert_eq!(reported(&mut db, "orphans"), 0);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM session_summaries s JOIN enrich.ip_inventory i ON i.ip_address = s.source_ip
             WHERE s.snapshot_asn IS DISTINCT FROM i.current_asn"
        ),
        0
    );
    // Sessions whose address has no network had no document either.
    assert_eq!(
        db.number(
            "SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL AND enrichment IS NOT NULL"
        ),
        0
    );
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    // Adding a foreign key reads the addresses again. The address of one session is not in the inventory.
    db.run(
        "ALTER TABLE session_summaries DISABLE TRIGGER USER;
         ALTER TABLE session_summaries DROP CONSTRAINT cowrie_enrich_address",
    );
    db.run("UPDATE enrich.ip_inventory SET enrichment = enrichment || '{\"x\": 1}'");
    db.run(
        "UPDATE session_summaries SET source_ip = set_masklen(source_ip, 24) WHERE session_id = '7';
         ALTER TABLE session_summaries ENABLE TRIGGER USER",
    );
    db.run("CALL enrich.add_session_foreign_key('session_summaries')");
    assert_eq!(
        db.one("SELECT result ->> 'orphans' FROM enrich.procedure_call WHERE procedure = 'add_session_foreign_key'"),
        "1"
    );
}
