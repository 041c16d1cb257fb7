//! The analysts' table: many rows a statement, upserts, partitions, a foreign key, and an address that is null at
//! first.

#[macro_use]
mod behaviours;

use server_tests::hosts::{NOON, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Session, database};

behaviours_of!(SUMMARIES);

const PARTITIONED: &str = "
    CREATE TABLE session_summaries (
        session_id text NOT NULL,
        source_ip inet,
        first_event_at timestamptz NOT NULL,
        last_event_at timestamptz,
        PRIMARY KEY (session_id, first_event_at)
    ) PARTITION BY RANGE (first_event_at);
    CREATE TABLE y2023 PARTITION OF session_summaries FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE y2024 PARTITION OF session_summaries FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');";

fn snapshots(db: &mut Session, table: &str) -> Vec<String> {
    db.rows(&format!("SELECT session_id, snapshot_asn, snapshot_country FROM {table} ORDER BY 1"))
}

#[track_caller]
fn assert_exact(db: &mut Session) {
    assert_counts_are_exact(db, &[("session_summaries", "source_ip")]);
}

#[test]
fn a_partitioned_table_is_attached_as_a_whole() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(&SUMMARIES.insert_at("2023-05-01", &[("a", Some("8.8.8.8"))]));
    db.run(&SUMMARIES.insert_at("2024-05-01", &[("b", Some("8.8.8.8"))]));
    assert_eq!(snapshots(&mut db, "y2023"), ["a|15169|US"]);
    assert_eq!(snapshots(&mut db, "y2024"), ["b|15169|US"]);
    assert_exact(&mut db);
}

#[test]
fn an_insert_into_a_partition_is_a_session_like_any_other() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(&format!(
        "INSERT INTO y2024 (session_id, source_ip, first_event_at)
         VALUES ('a', '8.8.8.8', '{NOON}'), ('b', '1.1.1.1', '{NOON}')"
    ));
    db.copy("y2024 (session_id, source_ip, first_event_at)", "c\t8.8.8.8\t2024-06-01\n");
    db.run("UPDATE y2024 SET source_ip = '1.1.1.1' WHERE session_id = 'a'");
    db.run("DELETE FROM y2024 WHERE session_id = 'b'");
    assert_eq!(snapshots(&mut db, "session_summaries"), ["a|15169|US", "c|15169|US"]);
    assert_exact(&mut db);
}

#[test]
fn a_partition_made_later_is_attached_too() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(
        "CREATE TABLE y2025 PARTITION OF session_summaries
             FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         CREATE TABLE y2026 (LIKE session_summaries INCLUDING ALL);
         ALTER TABLE session_summaries ATTACH PARTITION y2026
             FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    );
    db.run(&SUMMARIES.insert_at("2025-05-01", &[("a", Some("8.8.8.8"))]));
    db.run(&SUMMARIES.insert_at("2026-05-01", &[("b", Some("1.1.1.1"))]));
    assert_eq!(snapshots(&mut db, "session_summaries"), ["a|15169|US", "b|13335|AU"]);
    assert_exact(&mut db);
}

#[test]
fn a_detached_partition_keeps_taking_rows() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(&SUMMARIES.insert_at("2023-05-01", &[("a", Some("8.8.8.8"))]));
    db.run("ALTER TABLE session_summaries DETACH PARTITION y2023");
    db.run(
        "INSERT INTO y2023 (session_id, source_ip, first_event_at)
            VALUES ('b', '1.1.1.1', '2023-06-01')",
    );
    db.run(&SUMMARIES.insert_at("2024-05-01", &[("c", Some("89.160.20.1"))]));
    assert_eq!(db.number("SELECT count(*) FROM y2023"), 2);
    assert_eq!(snapshots(&mut db, "y2024"), ["c|29518|SE"]);
}

#[test]
fn a_row_that_moves_between_partitions_stays_one_session() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(&SUMMARIES.insert_at("2023-05-01", &[("a", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    db.run("UPDATE session_summaries SET first_event_at = '2024-05-01'");
    assert_eq!(snapshots(&mut db, "y2024"), ["a|15169|US"]);
    assert_exact(&mut db);
    db.run("UPDATE session_summaries SET first_event_at = '2023-05-01', source_ip = '1.1.1.1'");
    assert_exact(&mut db);
}

/// A partition whose columns have other numbers, and one of which is generated.
const OTHER_COLUMNS: &str = "
    CREATE TABLE y2022 (
        dropped text, last_event_at timestamptz, first_event_at timestamptz NOT NULL, session_id text NOT NULL,
        source_ip inet
    );
    ALTER TABLE y2022 DROP COLUMN dropped;
    ALTER TABLE session_summaries ADD COLUMN note text, ADD COLUMN twice text GENERATED ALWAYS AS (session_id || session_id) STORED;
    ALTER TABLE y2022 ADD COLUMN twice text GENERATED ALWAYS AS (session_id || session_id) STORED, ADD COLUMN note text;
    ALTER TABLE session_summaries ATTACH PARTITION y2022 FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')";

/// A session that moves keeps each value of its snapshot, also a null.
#[test]
fn a_row_that_moves_between_partitions_keeps_its_snapshot() {
    let mut db = database();
    db.run(PARTITIONED);
    db.run(OTHER_COLUMNS);
    SUMMARIES.attach(&mut db);
    db.run(&SUMMARIES.insert_at("2023-05-01", &[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
    // Since then, the addresses have got other attributions.
    db.run(
        "ALTER TABLE session_summaries DISABLE TRIGGER USER;
         UPDATE session_summaries SET snapshot_asn = 64496, snapshot_country = NULL, note = repeat('long', 10000);
         ALTER TABLE session_summaries ENABLE TRIGGER USER",
    );
    let kept = db.rows("SELECT session_id, enrichment, enrichment_at FROM session_summaries ORDER BY 1");
    for (year, other) in [(2024, "a"), (2022, "a"), (2023, "a"), (2022, "a2"), (2024, "a3")] {
        db.run(&format!(
            "UPDATE session_summaries SET first_event_at = '{year}-05-01', note = '{year}' || note,
                    session_id = replace(session_id, 'a', '{other}')
             WHERE session_id LIKE 'a%'"
        ));
    }
    assert_eq!(snapshots(&mut db, "y2024"), ["a32|64496|NULL"]);
    db.run("UPDATE session_summaries SET first_event_at = '2022-05-01', source_ip = '89.160.20.1', session_id = left(session_id, 1)");
    assert_eq!(snapshots(&mut db, "y2022"), ["a|64496|NULL", "b|64496|NULL"]);
    assert_eq!(
        db.rows("SELECT session_id, enrichment, enrichment_at FROM session_summaries ORDER BY 1"),
        kept
    );
    assert_exact(&mut db);
}

/// Only the row that moves keeps its snapshot. Rows that are inserted after an update get snapshots, in one statement too.
#[test]
fn rows_beside_an_update_of_a_partition_get_their_snapshots() {
    let mut db = database();
    db.run(PARTITIONED);
    SUMMARIES.attach(&mut db);
    db.run(&SUMMARIES.insert_at("2023-05-01", &[("a", Some("8.8.8.8"))]));
    db.run(
        "ALTER TABLE session_summaries DISABLE TRIGGER USER;
         UPDATE session_summaries SET snapshot_asn = NULL, snapshot_country = NULL, enrichment = NULL, enrichment_at = NULL;
         ALTER TABLE session_summaries ENABLE TRIGGER USER",
    );
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
         VALUES ('a', '8.8.8.8', '2023-05-01'), ('b', '8.8.8.8', '2024-05-01'), ('a', '8.8.8.8', '2024-05-01')
         ON CONFLICT (session_id, first_event_at) DO UPDATE SET last_event_at = NULL",
    );
    assert_eq!(snapshots(&mut db, "y2024"), ["a|15169|US", "b|15169|US"]);
    // The values of the updated row, in statements of their own.
    for (transaction, session) in [("", "c"), ("BEGIN;", "d")] {
        db.run(transaction);
        db.run(&format!("INSERT INTO session_summaries VALUES ('{session}', '8.8.8.8', '2023-05-01')"));
        db.run(&format!("UPDATE session_summaries SET snapshot_asn = 1, last_event_at = NULL WHERE session_id = '{session}'"));
        db.run(&format!(
            "INSERT INTO session_summaries (session_id, source_ip, first_event_at, snapshot_asn)
             VALUES ('{session}', '8.8.8.8', '2024-05-01', 1)"
        ));
        db.run(if transaction.is_empty() { "" } else { "COMMIT" });
    }
    assert_eq!(snapshots(&mut db, "y2024"), ["a|15169|US", "b|15169|US", "c|15169|US", "d|15169|US"]);
    assert_exact(&mut db);
}

#[test]
fn partitions_of_partitions_and_upserts_work() {
    let mut db = database();
    db.run(
        "CREATE TABLE session_summaries (
             session_id text, source_ip inet, first_event_at timestamptz,
             PRIMARY KEY (session_id)
         ) PARTITION BY HASH (session_id);
         CREATE TABLE h0 PARTITION OF session_summaries FOR VALUES WITH (MODULUS 2, REMAINDER 0)
             PARTITION BY HASH (session_id);
         CREATE TABLE h1 PARTITION OF session_summaries FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE h00 PARTITION OF h0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE h01 PARTITION OF h0 FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
    );
    SUMMARIES.attach(&mut db);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for address in [None, Some("8.8.8.8"), Some("8.8.8.8")] {
        let rows: Vec<_> = keys.iter().map(|k| (*k, address)).collect();
        db.run(&format!(
            "{} ON CONFLICT (session_id) DO UPDATE SET source_ip = EXCLUDED.source_ip",
            SUMMARIES.insert(&rows)
        ));
    }
    assert_exact(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn = 15169"), 8);
}

#[test]
fn with_a_foreign_key_sessions_point_at_existing_addresses() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(
        "SELECT enrich.attach_session_table('session_summaries', 'source_ip',
             'first_event_at', true)",
    );
    db.run(&SUMMARIES.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", None),
        ("c", Some("48.0.0.1")),
        ("d", Some("10.0.0.1")),
        ("e", Some("2001:db8::1")),
    ]));
    db.run("UPDATE session_summaries SET source_ip = '1.1.1.1' WHERE session_id = 'b'");
    db.copy("session_summaries (session_id, source_ip)", "f\t89.160.20.1\ng\t\\N\n");
    db.run(&format!(
        "BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
        SUMMARIES.insert(&[("h", Some("139.59.0.1"))]),
        SUMMARIES.insert(&[("h", Some("139.59.0.2"))]),
    ));
    assert_exact(&mut db);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM session_summaries s
             WHERE source_ip IS NOT NULL AND NOT EXISTS (
                 SELECT FROM enrich.ip_inventory i WHERE i.ip_address = s.source_ip)"
        ),
        0
    );
    let refusal = db.refused("DELETE FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'");
    assert_eq!(refusal.code, "23503");
}

#[test]
fn with_a_foreign_key_a_mapped_address_does_not_lose_the_session() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(
        "SELECT enrich.attach_session_table('session_summaries', 'source_ip',
             'first_event_at', true)",
    );
    db.run(&SUMMARIES.insert(&[("a", Some("::ffff:8.8.8.8"))]));
    assert_eq!(SUMMARIES.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_exact(&mut db);
}

/// The address is written below a savepoint that is rolled back. The session above it stays.
#[test]
fn with_a_foreign_key_an_address_written_below_a_rolled_back_savepoint_is_written_again() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT s; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO s; {}; COMMIT",
        SUMMARIES.insert(&[("a", Some("8.8.8.8"))]),
        SUMMARIES.insert(&[("b", Some("8.8.8.8"))])
    ));
    assert_eq!(db.number("SELECT count(*) FROM session_summaries"), 2);
    assert_exact(&mut db);
}

#[test]
fn the_netmask_of_an_inet_says_nothing_about_the_attacker() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[
        ("a", Some("8.8.8.8/24")),
        ("b", Some("8.8.8.8/32")),
        ("c", Some("8.8.8.8")),
    ]));
    assert_eq!(SUMMARIES.snapshot(&mut db, "a"), "15169|US|NULL");
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(db.rows("SELECT ip_address, session_count FROM enrich.ip_inventory"), ["8.8.8.8|3"]);
}

#[test]
fn without_a_time_column_the_clock_serves() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries')");
    let before = db.one("SELECT clock_timestamp()");
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.one(&format!(
            "SELECT first_seen >= '{before}' AND last_seen <= clock_timestamp()
             FROM enrich.ip_inventory"
        )),
        "t"
    );
}

#[test]
fn a_null_time_is_no_reason_to_lose_a_session() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
         VALUES ('a', '8.8.8.8', NULL)",
    );
    db.run("UPDATE session_summaries SET first_event_at = '2019-01-01'");
    assert_exact(&mut db);
    assert_eq!(db.one("SELECT isfinite(first_seen), isfinite(last_seen) FROM enrich.ip_inventory"), "t|t");
}

#[test]
fn a_time_column_may_be_a_date_less_timestamp() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (id int PRIMARY KEY, source_ip inet, at timestamp);
         SELECT enrich.attach_session_table('s', 'source_ip', 'at');
         SET timezone = 'Asia/Tokyo';
         INSERT INTO s VALUES (1, '8.8.8.8', '2024-01-01 09:00');
         SET timezone = 'UTC';
         CALL enrich.fold_statistics()",
    );
    assert_eq!(db.one("SELECT first_seen FROM enrich.ip_inventory"), "2024-01-01 00:00:00+00");
}

#[test]
fn the_predecessors_narrow_snapshot_columns_lose_no_session() {
    let mut db = database();
    db.run(
        "CREATE TABLE session_summaries (
             session_id varchar(64) PRIMARY KEY,
             source_ip varchar(45),
             first_event_at timestamptz,
             snapshot_asn integer,
             snapshot_country varchar(2) CHECK (snapshot_country ~ '^[A-Z]{2}$'),
             snapshot_ip_type text,
             enrichment jsonb,
             enrichment_at timestamptz)",
    );
    // The call may refuse the table if the hint tells what to change.
    match db.try_run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at')")
    {
        Err(refusal) => assert!(refusal.code == "42804" && refusal.hint.is_some(), "{refusal:?}"),
        Ok(()) => {
            db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("45.0.0.1"))]));
            assert_eq!(SUMMARIES.snapshot(&mut db, "a"), "15169|US|NULL");
            assert_eq!(SUMMARIES.snapshot(&mut db, "b"), "NULL|BR|NULL");
            assert_exact(&mut db);
        }
    }
}

#[test]
fn triggers_written_by_hand_attribute_and_count() {
    let mut db = database();
    // The names end like those of shards of Citus.
    db.run(
        "CREATE TABLE by_hand_2024 (id int PRIMARY KEY, peer inet,
             snapshot_asn bigint, snapshot_country text, snapshot_ip_type text,
             enrichment jsonb, enrichment_at timestamptz);
         CREATE TRIGGER fill_2024 BEFORE INSERT OR UPDATE ON by_hand_2024
             FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('peer');
         CREATE TRIGGER count_2024 AFTER INSERT OR UPDATE OR DELETE ON by_hand_2024
             FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session('peer')",
    );
    db.run("INSERT INTO by_hand_2024 VALUES (1, '8.8.8.8'), (2, NULL), (3, '1.1.1.1')");
    db.run("UPDATE by_hand_2024 SET peer = '8.8.8.9' WHERE id = 2; DELETE FROM by_hand_2024 WHERE id = 3");
    assert_eq!(
        db.rows("SELECT id, snapshot_asn, snapshot_country FROM by_hand_2024 ORDER BY id"),
        ["1|15169|US", "2|15169|US"]
    );
    // The transactions have created the rows. In a shard, the fold would create them.
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 3);
    assert_counts_are_exact(&mut db, &[("by_hand_2024", "peer")]);
}

#[test]
fn a_hand_written_trigger_with_a_wrong_argument_is_refused_or_harmless() {
    let mut db = database();
    db.run("CREATE TABLE by_hand (id int PRIMARY KEY, peer inet)");
    for arguments in ["", "'no_such_column'", "'id'"] {
        db.run(&format!(
            "CREATE TRIGGER enrich BEFORE INSERT ON by_hand
                 FOR EACH ROW EXECUTE FUNCTION enrich.enrich_session({arguments})"
        ));
        // The session must be stored, even if the message is lost.
        db.run("INSERT INTO by_hand VALUES (1, '8.8.8.8'); DELETE FROM by_hand");
        db.run("DROP TRIGGER enrich ON by_hand");
    }
}

#[test]
fn two_attached_tables_are_counted_together() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE TABLE other (id int PRIMARY KEY, ip text);
         SELECT enrich.attach_session_table('other', 'ip')",
    );
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    db.run("INSERT INTO other VALUES (1, '8.8.8.8'), (2, '::ffff:8.8.8.8'), (3, '1.1.1.1')");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip"), ("other", "ip")]);
    assert_eq!(db.one("SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"), "3");
}

#[test]
fn a_table_whose_names_need_quoting_is_attached() {
    let mut db = database();
    db.run(
        r#"CREATE SCHEMA "My Schema";
           CREATE TABLE "My Schema"."Se""ssions" ("Id" int, "Source IP" inet, "Seen At" timestamptz);
           SELECT enrich.attach_session_table('"My Schema"."Se""ssions"', 'Source IP', 'Seen At');
           INSERT INTO "My Schema"."Se""ssions" VALUES (1, '8.8.8.8', '2024-01-01')"#,
    );
    assert_eq!(db.one(r#"SELECT snapshot_country FROM "My Schema"."Se""ssions""#), "US");
    assert_counts_are_exact(&mut db, &[(r#""My Schema"."Se""ssions""#, "\"Source IP\"")]);
}

#[test]
fn columns_renamed_dropped_or_added_lose_no_session() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    db.run("ALTER TABLE session_summaries DROP COLUMN event_count, ADD COLUMN note text");
    db.run(&SUMMARIES.insert(&[("b", Some("8.8.8.8"))]));
    assert_eq!(SUMMARIES.snapshot(&mut db, "b"), "15169|US|NULL");
    db.run("ALTER TABLE session_summaries DROP COLUMN snapshot_country");
    db.run(&SUMMARIES.insert(&[("c", Some("1.1.1.1"))]));
    assert_eq!(db.one("SELECT snapshot_asn FROM session_summaries WHERE session_id = 'c'"), "13335");
    // The row is stored, even if the trigger does not know the new name.
    let renamed = db.try_run("ALTER TABLE session_summaries RENAME source_ip TO peer");
    if renamed.is_ok() {
        db.run("INSERT INTO session_summaries (session_id, peer) VALUES ('d', '8.8.8.8')");
        assert_eq!(db.number("SELECT count(*) FROM session_summaries"), 4);
    }
}
