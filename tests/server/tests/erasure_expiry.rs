//! Expiry of addresses: which sessions and addresses are old, and which documents and exceptions they leave.

use server_tests::documentation::grants;
use server_tests::erasures::{ERASED, TABLES, V4, documents_of_others, mentions, spread, stored};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database};

#[test]
fn old_sessions_and_addresses_without_newer_ones_expire() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    for (time, rows) in [
        ("now() - interval '100 days'", "('old', '8.8.8.8'), ('both', '1.1.1.1'), ('twice', '139.59.0.1')"),
        ("now() - interval '1 day'", "('new', '1.1.1.1'), ('other', '89.160.20.1')"),
    ] {
        db.run(&format!(
            "INSERT INTO sessions (id, ip, starttime) SELECT id, ip, {time} FROM (VALUES {rows}) v(id, ip)"
        ));
    }
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at) VALUES
             ('t', '139.59.0.1', now() - interval '80 days'), ('n', '8.8.4.4', NULL);
         SELECT enrich_ip('8.8.8.10');
         INSERT INTO ip_asn_history VALUES ('8.8.8.11', 15169, now() - interval '1 year', 'cymru')",
    );
    let known =
        |db: &mut Database<'_>| db.rows("SELECT host(ip_address) FROM ip_inventory ORDER BY ip_address");
    // One table only: the address with a session in the other table stays.
    db.run("CALL expire_addresses('90 days', 'sessions')");
    assert_eq!(
        db.rows("SELECT trim(id), ip FROM sessions ORDER BY id"),
        ["both|", "new|1.1.1.1", "old|", "other|89.160.20.1", "twice|"]
    );
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "8.8.8.10", "89.160.20.1", "139.59.0.1"]);
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);

    db.run("CALL expire_addresses('60 days', delete_sessions => true)");
    assert_eq!(mentions(&db, "8.8.8.11"), [""; 0]);
    assert_eq!(db.rows("SELECT session_id FROM session_summaries"), ["n"]);
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "8.8.8.10", "89.160.20.1"]);
    assert_eq!(mentions(&db, "139.59.0.1"), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
    // An address without sessions expires by the time at which it was stored.
    db.run("UPDATE ip_inventory SET created_at = now() - interval '61 days' WHERE ip_address = '8.8.8.10'");
    db.run("CALL expire_addresses('60 days')");
    assert_eq!(known(&mut db), ["1.1.1.1", "8.8.4.4", "89.160.20.1"]);
    // The session whose time is unknown expires by the time at which it was enriched.
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE source_ip IS NOT NULL"), 1);
}

/// Sensors without a clock and hostile sensors send times that cannot be true.
#[test]
fn a_time_that_cannot_be_true_is_not_the_age_of_a_session() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, ip, starttime) VALUES
             ('past', '8.8.8.1', '1965-01-01'), ('future', '8.8.8.2', '2400-01-01'), ('old', '8.8.8.3', '1970-01-02'),
             ('unknown', '8.8.8.4', '1965-01-01');
         BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE sessions SET enrichment_at = NULL WHERE trim(id) = 'unknown';
         COMMIT",
    );
    db.run("CALL expire_addresses('10 days')");
    let left = "SELECT trim(id) FROM sessions WHERE ip <> '' ORDER BY id";
    assert_eq!(db.rows(left), ["future", "past"]);
    db.run(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE sessions SET enrichment_at = now() - interval '11 days';
         COMMIT;
         UPDATE ip_inventory SET created_at = now() - interval '11 days'",
    );
    db.run("CALL expire_addresses('10 days')");
    assert_eq!(db.rows(left), [""; 0]);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn documents_lose_addresses_that_expire() {
    let mut db = database();
    stored(&mut db);
    // A client cannot change the document of a session. Only the erasure can.
    db.run("UPDATE sessions SET enrichment = '{}' WHERE trim(id) = 'd'");
    assert_ne!(db.one("SELECT enrichment FROM sessions WHERE trim(id) = 'd'"), "{}");
    db.run("UPDATE sessions SET starttime = now() WHERE trim(id) IN ('c', 'd'); UPDATE session_summaries SET first_event_at = now()");
    db.run("DELETE FROM session_summaries WHERE source_ip <> '139.59.0.1'");
    spread(&mut db, V4, "8[.]8[.]8[.]8");
    db.run("CALL refresh_session_counts()");
    db.run("DELETE FROM blocklist_exception");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(
        documents_of_others(&mut db),
        [format!(
            r#"{{"ip": "139.59.0.1", "peers": ["{ERASED}", "1.1.1.1"]}}|{{"error": "{ERASED}", "state": "failed"}}"#
        )]
    );
    assert_eq!(mentions(&db, V4), [""; 0]);
}

/// The owner of a session table has no rights on rows of other roles.
#[test]
fn a_call_for_one_table_erases_no_exception_and_no_history_of_other_tables() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             VALUES ('a', '8.8.8.1', now() - interval '100 days'), ('b', '8.8.8.2', now() - interval '100 days');
         INSERT INTO ip_asn_history VALUES ('8.8.8.11', 15169, now() - interval '1 year', 'cymru');
         INSERT INTO blocklist_exception (prefix, added_at)
             SELECT a, now() - interval '1 year' FROM unnest('{8.8.8.2,192.0.2.7}'::cidr[]) a",
    );
    db.run("CALL expire_addresses('90 days', 'session_summaries')");
    assert_eq!(db.rows("SELECT host(ip_address) FROM ip_inventory"), ["8.8.8.2"]);
    assert_eq!(
        db.rows("SELECT prefix FROM blocklist_exception ORDER BY prefix"),
        ["8.8.8.2/32", "192.0.2.7/32"]
    );
    assert_eq!(db.number("SELECT count(*) FROM ip_asn_history WHERE ip_address = '8.8.8.11'"), 1);
    db.run("CALL expire_addresses('90 days')");
    assert_eq!(db.number("SELECT count(*) FROM blocklist_exception"), 0);
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
}

#[test]
fn an_exception_of_the_blocklist_expires_with_its_address() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, ip, starttime)
             SELECT 's' || n, '8.8.8.' || n, now() - interval '100 days' FROM generate_series(1, 3) n;
         INSERT INTO sessions (id, ip, starttime) VALUES ('s4', '8.8.8.4', now());
         INSERT INTO blocklist_exception (prefix, added_at) VALUES
             ('8.8.8.1', now() - interval '91 days'),
             -- The entries of these three stay.
             ('8.8.8.2', now() - interval '89 days'), ('8.8.8.3', 'infinity'), ('8.8.8.4', now() - interval '1 year'),
             -- These addresses have no sessions.
             ('8.8.8.5', now() - interval '91 days'), ('8.8.8.6', now()), ('2001:db8::1', now() - interval '91 days'),
             ('8.8.8.0/24', now() - interval '91 days'), ('2001:db8::/64', now() - interval '91 days')",
    );
    db.run("CALL expire_addresses('90 days')");
    assert_eq!(
        db.rows("SELECT prefix FROM blocklist_exception ORDER BY prefix"),
        ["8.8.8.0/24", "8.8.8.2/32", "8.8.8.3/32", "8.8.8.4/32", "8.8.8.6/32", "2001:db8::/64"]
    );
    assert_eq!(
        db.rows("SELECT host(ip_address) FROM ip_inventory ORDER BY ip_address"),
        ["8.8.8.2", "8.8.8.3", "8.8.8.4"]
    );
    assert_eq!(mentions(&db, "8.8.8.1"), [""; 0]);
    assert_eq!(mentions(&db, "8.8.8.5"), [""; 0]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Returns a number from the result of the last call.
fn result(db: &mut Session, name: &str) -> i64 {
    db.number(&format!(
        "SELECT (result ->> '{name}')::bigint FROM enrich.procedure_call WHERE procedure = 'expire_addresses'
         ORDER BY ended_at DESC LIMIT 1"
    ))
}

/// Such a session was stored before its table was attached, or its sensor sent no time.
#[test]
fn a_session_without_any_time_is_as_old_as_its_address() {
    let mut db = database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at) VALUES
             ('old', '8.8.8.1', now() - interval '100 days'), ('new', '8.8.8.2', now() - interval '1 day');
         BEGIN;
         SET LOCAL session_replication_role = replica;
         INSERT INTO session_summaries (session_id, source_ip)
             SELECT 'without time ' || n, ('8.8.8.' || n)::inet FROM generate_series(1, 5) n;
         INSERT INTO session_summaries (session_id, source_ip, first_event_at, enrichment_at) VALUES
             ('far future', '8.8.8.3', '2400-01-01', NULL), ('without end', '8.8.8.3', 'infinity', 'infinity');
         COMMIT",
    );
    db.run("CALL refresh_session_counts()");
    db.run(
        "UPDATE ip_inventory SET created_at = now() - interval '91 days' WHERE ip_address = '8.8.8.3';
         DELETE FROM ip_inventory WHERE ip_address = '8.8.8.5'",
    );
    db.run("CALL expire_addresses('90 days', 'session_summaries')");
    assert_eq!(
        db.rows("SELECT session_id FROM session_summaries WHERE source_ip IS NOT NULL ORDER BY 1"),
        ["new", "without time 2", "without time 4", "without time 5"]
    );
    assert_eq!((result(&mut db, "sessions"), result(&mut db, "sessions_without_time")), (5, 3));
    assert_eq!(db.rows("SELECT host(ip_address) FROM ip_inventory ORDER BY 1"), ["8.8.8.2", "8.8.8.4"]);
    db.run("DELETE FROM session_summaries WHERE session_id LIKE '%5'");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    db.run("UPDATE ip_inventory SET created_at = now() - interval '91 days'");
    db.run("CALL expire_addresses('90 days', delete_sessions => true)");
    assert_eq!(
        db.rows("SELECT session_id FROM session_summaries WHERE source_ip IS NOT NULL ORDER BY 1"),
        ["new", "without time 2"]
    );
    // Sessions without an address and without a time stay too. Only the session with a time is deleted.
    assert_eq!((result(&mut db, "sessions"), result(&mut db, "sessions_without_time")), (2, 5));
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn a_session_without_a_time_and_without_a_valid_address_is_kept_and_counted() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run("SELECT attach_session_table('sessions', 'ip')");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("not an ip")), ("c", Some(""))]));
    db.run("CALL expire_addresses('1 day')");
    assert_eq!((result(&mut db, "sessions"), result(&mut db, "sessions_without_time")), (0, 1));
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE ip <> ''"), 2);
}

#[test]
fn documents_in_other_tables_of_the_owner_lose_addresses_that_expire() {
    let mut db = database();
    stored(&mut db);
    db.run("UPDATE session_summaries SET first_event_at = now(); DELETE FROM session_summaries WHERE source_ip <> '139.59.0.1'");
    spread(&mut db, V4, V4);
    db.run("DELETE FROM blocklist_exception");
    db.run("CALL refresh_session_counts()");
    let (owner, other) = (db.create_role("owner"), db.create_role("other"));
    db.run(&grants("docs/security.md", "honeypot_tables", &owner));
    db.run(&format!(
        "ALTER TABLE sessions OWNER TO {owner}; ALTER TABLE session_summaries OWNER TO {owner};
         CREATE TABLE of_another (peer inet, at timestamptz);
         SELECT attach_session_table('of_another', 'peer', 'at');
         INSERT INTO of_another VALUES ('89.160.20.1', now());
         BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE of_another SET enrichment = (SELECT enrichment FROM session_summaries WHERE session_id = 't');
         COMMIT;
         ALTER TABLE of_another OWNER TO {other}"
    ));
    let peers = |db: &mut Session, table: &str| {
        db.one(&format!("SELECT enrichment #>> '{{spur,peers,0}}' FROM {table} WHERE enrichment ? 'spur'"))
    };
    assert_eq!(peers(&mut db, "session_summaries"), V4);
    db.session_as(&owner).run("CALL enrich.expire_addresses('1 day', 'sessions')");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE ip_address = '8.8.8.8'"), 0);
    assert_eq!(peers(&mut db, "session_summaries"), ERASED);
    // The caller may not change sessions of other owners.
    assert_eq!(peers(&mut db, "of_another"), V4);
}

/// Stores old sessions from the first addresses of 8.8.8.0/24 in a table, one session for each address.
fn store_old(db: &mut Session, table: &str, addresses: std::ops::Range<u32>) {
    db.run(&format!(
        "INSERT INTO {table} SELECT n, '8.8.8.0'::inet + n, now() - interval '1 year'
         FROM generate_series({}, {}) n",
        addresses.start,
        addresses.end - 1
    ));
}

const ADDRESSES: &str = "SELECT host(ip_address) FROM ip_inventory ORDER BY ip_address";

#[test]
fn an_address_that_a_foreign_key_keeps_does_not_keep_other_addresses() {
    let mut db = database();
    db.run("CREATE TABLE s (n int, ip inet, at timestamptz); SELECT attach_session_table('s', 'ip', 'at')");
    store_old(&mut db, "s", 1..6);
    db.run(
        "CALL fold_statistics();
         CREATE TABLE notes (ip inet REFERENCES ip_inventory);
         INSERT INTO notes VALUES ('8.8.8.2'), ('8.8.8.4')",
    );
    let refusal = db.refused("CALL expire_addresses('30 days')");
    assert_eq!(refusal.code, "23503", "{refusal:?}");
    assert_eq!(db.rows(ADDRESSES), ["8.8.8.2", "8.8.8.4"]);
    assert_eq!(db.number("SELECT count(ip) FROM s"), 0);
    db.run("DROP TABLE notes");
    db.run("CALL expire_addresses('30 days')");
    assert_eq!(db.rows(ADDRESSES), [""; 0]);
    assert_counts_are_exact(&mut db, &[("s", "ip")]);
}

#[test]
fn a_table_whose_sessions_cannot_expire_does_not_keep_sessions_of_other_tables() {
    let mut db = database();
    for table in [
        "CREATE TABLE a (n int, ip inet NOT NULL, at timestamptz)",
        "CREATE TABLE b (n int, ip inet, at timestamptz)",
    ] {
        db.run(table);
    }
    db.run("SELECT attach_session_table('a', 'ip', 'at'), attach_session_table('b', 'ip', 'at')");
    store_old(&mut db, "a", 1..3);
    store_old(&mut db, "b", 3..6);
    let refusal = db.refused("CALL expire_addresses('30 days')");
    assert_eq!(refusal.code, "23502", "{refusal:?}");
    assert_eq!(db.rows("SELECT count(a.ip) FROM a UNION ALL SELECT count(b.ip) FROM b"), ["2", "0"]);
    assert_eq!(db.rows(ADDRESSES), ["8.8.8.1", "8.8.8.2"]);
    db.run("CALL expire_addresses('30 days', delete_sessions => true)");
    assert_eq!(db.rows(ADDRESSES), [""; 0]);
    assert_counts_are_exact(&mut db, &[("a", "ip"), ("b", "ip")]);
}

#[test]
fn a_locked_session_or_address_does_not_keep_others() {
    let mut db = database();
    db.run("CREATE TABLE s (n int, ip inet, at timestamptz); SELECT attach_session_table('s', 'ip', 'at')");
    // More sessions than one transaction erases, so that there are later pages.
    db.run("INSERT INTO s SELECT n, '23.0.0.0'::inet + n % 500, now() - interval '1 year' FROM generate_series(1, 12000) n");
    db.run("CALL fold_statistics()");
    let mut other = db.another();
    other.run("BEGIN; SELECT FROM s WHERE n = 7 FOR UPDATE");
    let refusal = db.refused("CALL expire_addresses('30 days')");
    assert_eq!(refusal.code, "55P03", "{refusal:?}");
    assert_eq!(db.rows("SELECT n, ip FROM s WHERE ip IS NOT NULL"), ["7|23.0.0.7"]);
    assert_eq!(db.rows(ADDRESSES), ["23.0.0.7"]);
    other.run("COMMIT");
    db.run("INSERT INTO s SELECT n, '23.0.0.0'::inet + n, now() - interval '1 year' FROM generate_series(1, 9) n");
    db.run("UPDATE s SET at = now() WHERE ip = '23.0.0.7'; CALL fold_statistics(); DELETE FROM s WHERE ip <> '23.0.0.7'");
    db.run("CALL fold_statistics(); UPDATE ip_inventory SET last_seen = now() - interval '1 year' WHERE session_count = 0");
    other.run("BEGIN; SELECT FROM ip_inventory WHERE ip_address = '23.0.0.5' FOR UPDATE");
    let refusal = db.refused("CALL expire_addresses('30 days')");
    assert_eq!(refusal.code, "55P03", "{refusal:?}");
    assert_eq!(db.rows(ADDRESSES), ["23.0.0.5", "23.0.0.7"]);
    other.run("COMMIT");
    db.run("CALL expire_addresses('30 days')");
    assert_eq!(db.rows(ADDRESSES), ["23.0.0.7"]);
    assert_counts_are_exact(&mut db, &[("s", "ip")]);
}
