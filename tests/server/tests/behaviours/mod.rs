//! Tests for both hosts: the honeypot's table and the analysts'.

use server_tests::hosts::{Host, NOON};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database};

/// Makes one test of each behaviour for one host.
#[macro_export]
macro_rules! behaviours_of {
    ($host:expr) => {
        $crate::behaviours_of! { $host;
            a_session_carries_the_attribution_of_its_address,
            a_new_address_enters_the_inventories_with_its_session,
            a_known_address_is_counted_again,
            an_unknown_address_leaves_null_snapshots_and_a_job,
            a_bogon_is_inventoried_and_never_queued,
            a_mapped_address_is_the_ipv4_address,
            many_rows_in_one_statement_are_each_attributed,
            copy_attributes_every_row,
            an_upsert_that_does_nothing_counts_nothing,
            an_upsert_that_updates_counts_the_session_once,
            an_upsert_that_fills_the_address_attributes_the_session,
            an_address_filled_later_attributes_the_session,
            updates_of_other_columns_do_nothing,
            a_snapshot_once_set_never_changes,
            an_unknown_snapshot_can_still_be_completed,
            a_changed_address_moves_its_session_and_keeps_the_snapshot,
            a_deleted_session_is_not_counted,
            truncate_leaves_counts_that_equal_a_recount,
            first_and_last_seen_come_from_the_sessions,
            an_older_session_moves_first_seen_back,
            an_infinite_time_leaves_finite_times,
            returning_shows_the_snapshot,
            the_users_own_trigger_may_replace_the_address,
            a_row_that_the_user_suppressed_is_not_counted,
            a_rolled_back_session_leaves_nothing,
            replica_role_inserts_without_enrichment,
            sessions_are_accepted_after_detach,
            attaching_twice_counts_once,
            attach_says_what_is_wrong_and_changes_nothing,
            a_failing_constraint_on_the_address_inventory_loses_no_session,
            a_failing_constraint_on_the_network_inventory_loses_no_session,
            a_failing_trigger_on_the_inventory_loses_no_session,
            a_renamed_inventory_loses_no_session,
            a_missing_delta_table_loses_no_session,
            a_locked_inventory_loses_no_session,
            a_cancelled_insert_is_still_cancelled,
            the_session_with_the_largest_network_number_is_stored,
        }
    };
    ($host:expr; $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                behaviours::$name(&$host);
            }
        )*
    };
}

fn attached(host: &Host) -> Database<'static> {
    let mut db = database();
    host.create_attached(&mut db);
    db
}

#[track_caller]
fn assert_exact(host: &Host, db: &mut Session) {
    assert_counts_are_exact(db, &[(host.table, host.address)]);
}

fn inventory(db: &mut Session, address: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT current_asn, geo_country, session_count
         FROM enrich.ip_inventory WHERE ip_address = '{address}'"
    ))
}

pub fn a_session_carries_the_attribution_of_its_address(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    db.run(&host.insert(&[("b", Some("2a03:2880::1"))]));
    db.run(&host.insert(&[("c", Some("46.0.0.1"))]));
    db.run(&host.insert(&[("d", Some("47.0.0.1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "32934|IE|NULL");
    assert_eq!(host.snapshot(&mut db, "c"), "NULL|NL|NULL");
    assert_eq!(host.snapshot(&mut db, "d"), "45102|NULL|NULL");
    assert_eq!(db.number(&format!("SELECT count(*) FROM {} WHERE enrichment_at IS NOT NULL", host.table)), 4);
    assert_exact(host, &mut db);
}

pub fn a_new_address_enters_the_inventories_with_its_session(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    // Before any fold: the rows exist as soon as the session does.
    assert_eq!(
        db.rows("SELECT ip_address, current_asn, geo_country FROM enrich.ip_inventory"),
        ["8.8.8.8|15169|US"]
    );
    assert_eq!(db.rows("SELECT asn_number, organization_name FROM enrich.asn_inventory"), ["15169|GOOGLE"]);
    assert_eq!(db.rows("SELECT ip_address, asn_number FROM enrich.ip_asn_history"), ["8.8.8.8|15169"]);
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
}

pub fn a_known_address_is_counted_again(host: &Host) {
    let mut db = attached(host);
    for key in ["a", "b", "c"] {
        db.run(&host.insert(&[(key, Some("8.8.8.8"))]));
    }
    db.run("CALL enrich.fold_statistics()");
    db.run(&host.insert(&[("d", Some("8.8.8.8")), ("e", Some("8.8.8.9"))]));
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|4"]);
    assert_eq!(db.one("SELECT unique_ip_count, total_session_count FROM enrich.asn_inventory"), "2|5");
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 2);
}

pub fn an_unknown_address_leaves_null_snapshots_and_a_job(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("48.0.0.1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_eq!(
        db.rows("SELECT ip_address, current_asn, geo_country FROM enrich.ip_inventory"),
        ["48.0.0.1|NULL|XX"]
    );
    assert_eq!(
        db.rows(
            "SELECT DISTINCT ip_address, provider FROM enrich.enrichment_request
             WHERE provider = 'cymru'"
        ),
        ["48.0.0.1|cymru"]
    );
    assert_exact(host, &mut db);
}

pub fn a_bogon_is_inventoried_and_never_queued(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("10.1.2.3")), ("b", Some("fe80::1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_eq!(
        db.rows(
            "SELECT ip_address, is_bogon, current_asn, geo_country
             FROM enrich.ip_inventory ORDER BY 1"
        ),
        ["10.1.2.3|t|NULL|XX", "fe80::1|t|NULL|XX"]
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_request"), 0);
    assert_exact(host, &mut db);
}

pub fn a_mapped_address_is_the_ipv4_address(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("::ffff:8.8.8.8")), ("b", Some("8.8.8.8"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_exact(host, &mut db);
    assert_eq!(db.rows("SELECT ip_address, session_count FROM enrich.ip_inventory"), ["8.8.8.8|2"]);
}

pub fn many_rows_in_one_statement_are_each_attributed(host: &Host) {
    let mut db = attached(host);
    let keys: Vec<String> = (0..500).map(|i| format!("k{i}")).collect();
    let addresses: Vec<String> = (0..500).map(|i| server_tests::world::crowd_member(i % 300)).collect();
    let rows: Vec<(&str, Option<&str>)> =
        keys.iter().zip(&addresses).map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
    db.run(&host.insert(&rows));
    assert_eq!(
        db.number(&format!(
            "SELECT count(*) FROM {t} WHERE snapshot_asn
                 = 200000 + split_part(host({a}::inet), '.', 2)::int",
            t = host.table,
            a = host.address
        )),
        500
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 300);
    assert_exact(host, &mut db);
}

pub fn copy_attributes_every_row(host: &Host) {
    let mut db = attached(host);
    db.copy(
        &format!("{} ({}, {}, {})", host.table, host.key, host.time, host.address),
        &format!("a\t{NOON}\t8.8.8.8\nb\t{NOON}\t1.1.1.1\nc\t{NOON}\t8.8.8.8\n"),
    );
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "13335|AU|NULL");
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|2"]);
}

pub fn an_upsert_that_does_nothing_counts_nothing(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    for _ in 0..3 {
        db.run(&format!(
            "{} ON CONFLICT DO NOTHING",
            host.insert(&[("a", Some("8.8.8.8")), ("a", Some("1.1.1.1")), ("b", Some("1.1.1.1"))])
        ));
    }
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
    assert_eq!(inventory(&mut db, "1.1.1.1"), ["13335|AU|1"]);
}

pub fn an_upsert_that_updates_counts_the_session_once(host: &Host) {
    let mut db = attached(host);
    for _ in 0..3 {
        db.run(&format!(
            "{} ON CONFLICT ({key}) DO UPDATE SET {a} = EXCLUDED.{a}, {t} = EXCLUDED.{t}",
            host.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]),
            key = host.key,
            a = host.address,
            t = host.time,
        ));
    }
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
    assert_eq!(host.snapshot(&mut db, "b"), "13335|AU|NULL");
}

pub fn an_upsert_that_fills_the_address_attributes_the_session(host: &Host) {
    let mut db = attached(host);
    let upsert = |rows: &[(&str, Option<&str>)]| {
        format!(
            "{} ON CONFLICT ({key}) DO UPDATE SET {a} = EXCLUDED.{a}",
            host.insert(rows),
            key = host.key,
            a = host.address,
        )
    };
    db.run(&upsert(&[("a", None), ("b", None)]));
    db.run(&upsert(&[("a", Some("8.8.8.8")), ("b", None), ("c", Some("1.1.1.1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "NULL|NULL|NULL");
    assert_eq!(host.snapshot(&mut db, "c"), "13335|AU|NULL");
    assert_exact(host, &mut db);
}

pub fn an_address_filled_later_attributes_the_session(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", None), ("b", None)]));
    assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 0);
    db.run(&format!("UPDATE {} SET {} = '8.8.8.8'", host.table, host.address));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "15169|US|NULL");
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|2"]);
}

pub fn updates_of_other_columns_do_nothing(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1"))]));
    db.run("CALL enrich.fold_statistics()");
    let state = "SELECT (SELECT jsonb_agg(to_jsonb(i) || jsonb_build_object('x', i.xmin))
                         FROM enrich.ip_inventory i),
                        (SELECT jsonb_agg(to_jsonb(n) || jsonb_build_object('x', n.xmin))
                         FROM enrich.asn_inventory n),
                        (SELECT count(*) FROM enrich.enrichment_request),
                        (SELECT count(*) FROM enrich.session_delta),
                        (SELECT count(*) FROM enrich.network_delta)";
    let before = db.one(state);
    let column = if host.table == "sessions" { "endtime" } else { "last_event_at" };
    db.run(&format!("UPDATE {} SET {column} = now()", host.table));
    // The UPDATE writes the same address again.
    db.run(&format!("UPDATE {t} SET {a} = {a}", t = host.table, a = host.address));
    assert_eq!(db.one(state), before);
    assert_exact(host, &mut db);
}

pub fn a_snapshot_once_set_never_changes(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    let columns =
        format!("SELECT snapshot_asn, snapshot_country, enrichment, enrichment_at FROM {}", host.table);
    let before = db.one(&columns);
    for assignment in [
        "snapshot_country = 'ZZ'",
        "snapshot_country = NULL, snapshot_asn = NULL",
        "snapshot_asn = 64500",
        "enrichment = '{}', enrichment_at = now() + interval '1 day'",
        "enrichment = NULL, enrichment_at = NULL",
    ] {
        db.run(&format!("UPDATE {} SET {assignment}", host.table));
        assert_eq!(db.one(&columns), before, "after SET {assignment}");
    }
    assert_exact(host, &mut db);
}

pub fn an_unknown_snapshot_can_still_be_completed(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("48.0.0.1")), ("b", Some("8.8.8.8"))]));
    let update = format!("UPDATE {} SET snapshot_asn = 64501, snapshot_ip_type = 'VPN'", host.table);
    db.run(&update);
    assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "15169|US|NULL");
    db.run(&format!("SELECT enrich.set_session_table_options('{}', NULL, true)", host.table));
    db.run(&update);
    assert_eq!(host.snapshot(&mut db, "a"), "64501|NULL|VPN");
    assert_eq!(host.snapshot(&mut db, "b"), "15169|US|VPN");
}

pub fn a_changed_address_moves_its_session_and_keeps_the_snapshot(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.8"))]));
    db.run(&format!("UPDATE {} SET {} = '1.1.1.1' WHERE {} = 'a'", host.table, host.address, host.key));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
    assert_eq!(inventory(&mut db, "1.1.1.1"), ["13335|AU|1"]);
    db.run(&format!("UPDATE {} SET {} = {}", host.table, host.address, host.no_address));
    assert_exact(host, &mut db);
}

pub fn a_deleted_session_is_not_counted(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("8.8.8.8")),
        ("c", Some("1.1.1.1")),
        ("d", None),
    ]));
    db.run(&format!("DELETE FROM {} WHERE {} <> 'a'", host.table, host.key));
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
    assert_eq!(inventory(&mut db, "1.1.1.1"), ["13335|AU|0"]);
}

pub fn truncate_leaves_counts_that_equal_a_recount(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
    db.run("CALL enrich.fold_statistics()");
    db.run(&host.insert(&[("c", Some("8.8.8.8"))]));
    db.run(&format!("TRUNCATE {}", host.table));
    db.run(&host.insert(&[("d", Some("8.8.8.8"))]));
    assert_exact(host, &mut db);
    db.run(&format!("BEGIN; TRUNCATE {}; ROLLBACK", host.table));
    assert_exact(host, &mut db);
}

pub fn first_and_last_seen_come_from_the_sessions(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert_at("2018-05-01 10:00:00+00", &[("a", Some("8.8.8.8"))]));
    db.run(&host.insert_at("2018-05-03 10:00:00+00", &[("b", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    let times = "SELECT first_seen AT TIME ZONE 'UTC', last_seen AT TIME ZONE 'UTC'";
    for table in ["ip_inventory", "asn_inventory"] {
        assert_eq!(
            db.one(&format!("{times} FROM enrich.{table}")),
            "2018-05-01 10:00:00|2018-05-03 10:00:00",
            "in {table}"
        );
    }
    // An enrichment years later does not change the times of sightings.
    db.run("SELECT enrich.enrich_ip('8.8.8.8', true)");
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.one(&format!("{times} FROM enrich.ip_inventory")),
        "2018-05-01 10:00:00|2018-05-03 10:00:00"
    );
}

pub fn an_older_session_moves_first_seen_back(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert_at("2020-01-01 00:00:00+00", &[("a", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    db.run(&host.insert_at("2019-01-01 00:00:00+00", &[("b", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.one(
            "SELECT first_seen AT TIME ZONE 'UTC', last_seen AT TIME ZONE 'UTC'
             FROM enrich.ip_inventory"
        ),
        "2019-01-01 00:00:00|2020-01-01 00:00:00"
    );
}

pub fn an_infinite_time_leaves_finite_times(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert_at("infinity", &[("a", Some("8.8.8.8"))]));
    db.run(&host.insert_at("-infinity", &[("b", Some("1.1.1.1"))]));
    db.run(&host.insert_at("2019-01-01 00:00:00+00", &[("c", Some("8.8.8.8"))]));
    assert_exact(host, &mut db);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM (SELECT first_seen, last_seen FROM enrich.ip_inventory
                UNION ALL SELECT first_seen, last_seen FROM enrich.asn_inventory) s
             WHERE NOT isfinite(first_seen) OR NOT isfinite(last_seen)"
        ),
        0
    );
}

pub fn returning_shows_the_snapshot(host: &Host) {
    let mut db = attached(host);
    assert_eq!(
        db.rows(&format!(
            "{} RETURNING trim({}), snapshot_asn, snapshot_country",
            host.insert(&[("a", Some("8.8.8.8")), ("b", None)]),
            host.key
        )),
        ["a|15169|US", "b|NULL|NULL"]
    );
}

pub fn the_users_own_trigger_may_replace_the_address(host: &Host) {
    let mut db = attached(host);
    // PostgreSQL fires triggers in the order of their names. So one of these runs before the extension's, and one
    // after.
    for (name, old, new) in [("aaa", "1.1.1.1", "8.8.8.8"), ("zzz", "139.59.0.1", "89.160.20.1")] {
        db.run(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.{a}::text LIKE '{old}%' THEN NEW.{a} := '{new}'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {t}
             FOR EACH ROW EXECUTE FUNCTION {name}()",
            a = host.address,
            t = host.table
        ));
    }
    db.run(&host.insert(&[("a", Some("1.1.1.1"))]));
    db.run(&host.insert(&[("b", Some("139.59.0.1"))]));
    assert_exact(host, &mut db);
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
    assert_eq!(inventory(&mut db, "89.160.20.1"), ["29518|SE|1"]);
}

pub fn a_row_that_the_user_suppressed_is_not_counted(host: &Host) {
    let mut db = attached(host);
    for (name, address) in [("aaa", "1.1.1.1"), ("zzz", "8.8.8.8")] {
        db.run(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.{a}::text LIKE '{address}%' THEN RETURN NULL; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER {name} BEFORE INSERT ON {t}
             FOR EACH ROW EXECUTE FUNCTION {name}()",
            a = host.address,
            t = host.table
        ));
    }
    db.run(&host.insert(&[("a", Some("1.1.1.1")), ("b", Some("8.8.8.8")), ("c", Some("89.160.20.1"))]));
    assert_eq!(db.number(&format!("SELECT count(*) FROM {}", host.table)), 1);
    assert_exact(host, &mut db);
}

pub fn a_rolled_back_session_leaves_nothing(host: &Host) {
    let mut db = attached(host);
    db.run(&format!("BEGIN; {}; ROLLBACK", host.insert(&[("a", Some("8.8.8.8"))])));
    assert_eq!(
        db.one(
            "SELECT (SELECT count(*) FROM enrich.ip_inventory),
                    (SELECT count(*) FROM enrich.asn_inventory),
                    (SELECT count(*) FROM enrich.ip_asn_history)"
        ),
        "0|0|0"
    );
    // The connection can still be used.
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "8.8.8.8"), ["15169|US|1"]);
}

pub fn replica_role_inserts_without_enrichment(host: &Host) {
    let mut db = attached(host);
    db.run(&format!(
        "SET session_replication_role = replica; {}; RESET session_replication_role",
        host.insert(&[("a", Some("8.8.8.8"))])
    ));
    assert_eq!(host.snapshot(&mut db, "a"), "NULL|NULL|NULL");
    db.run(&host.insert(&[("b", Some("8.8.8.8"))]));
    assert_eq!(host.snapshot(&mut db, "b"), "15169|US|NULL");
}

pub fn sessions_are_accepted_after_detach(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    db.run(&format!("SELECT enrich.detach_session_table('{}')", host.table));
    db.run(&host.insert(&[("b", Some("1.1.1.1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(host.snapshot(&mut db, "b"), "NULL|NULL|NULL");
    assert_eq!(
        db.number(&format!(
            "SELECT count(*) FROM pg_trigger
             WHERE tgrelid = '{}'::regclass AND NOT tgisinternal",
            host.table
        )),
        0
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.attached_tables"), 0);
}

pub fn attaching_twice_counts_once(host: &Host) {
    let mut db = attached(host);
    // The second call may fail or do nothing, but it must not add a second set of triggers.
    let _ = db.try_run(&format!(
        "SELECT enrich.attach_session_table('{}', '{}', '{}')",
        host.table, host.address, host.time
    ));
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    assert_exact(host, &mut db);
}

pub fn attach_says_what_is_wrong_and_changes_nothing(host: &Host) {
    let mut db = database();
    host.create(&mut db);
    let columns = format!(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0",
        host.table
    );
    let before = db.number(&columns);
    let refusals = [
        (format!("'{}', 'no_such_column'", host.table), "42703"),
        (format!("'{}', '{}', 'no_such_column'", host.table, host.address), "42703"),
        // Numbers and times are rejected as addresses, and addresses as times.
        (format!("'{}', '{}'", host.table, host.time), "42804"),
        (format!("'{t}', '{a}', '{a}'", t = host.table, a = host.address), "42804"),
    ];
    for (arguments, code) in refusals {
        let refusal = db.refused(&format!("SELECT enrich.attach_session_table({arguments})"));
        assert_eq!(refusal.code, code, "{arguments}: {refusal:?}");
    }
    let refusal = db.refused("SELECT enrich.attach_session_table('pg_class', 'relname')");
    assert!(["42809", "42501", "22023", "42804"].contains(&refusal.code.as_str()), "{refusal:?}");
    assert_eq!(db.number(&columns), before);
    assert_eq!(db.number("SELECT count(*) FROM enrich.attached_tables"), 0);
}

/// The owner broke an object of the extension. Sessions are still stored, by every form of statement. After the repair
/// everything works again.
fn assert_no_session_is_lost(host: &Host, breaks: &str, repairs: &str) {
    let mut db = attached(host);
    db.run(&host.insert(&[("before", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    db.run(breaks);
    db.run(&host.insert(&[("known", Some("8.8.8.8"))]));
    db.run(&host.insert(&[("new", Some("1.1.1.1"))]));
    db.run(&host.insert(&[("x", Some("89.160.20.1")), ("y", Some("139.59.0.1"))]));
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT s; {}; RELEASE s; COMMIT",
        host.insert(&[("p", Some("1.1.1.2"))]),
        host.insert(&[("q", Some("1.1.1.3"))]),
    ));
    assert_eq!(
        db.rows(&format!("SELECT trim({}) FROM {} ORDER BY 1", host.key, host.table)),
        ["before", "known", "new", "p", "q", "x", "y"]
    );
    db.run(repairs);
    db.run(&host.insert(&[("after", Some("2a03:2880::1"))]));
    assert_eq!(host.snapshot(&mut db, "after"), "32934|IE|NULL");
    assert_eq!(
        db.one("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '2a03:2880::1'"),
        "32934"
    );
}

pub fn a_failing_constraint_on_the_address_inventory_loses_no_session(host: &Host) {
    assert_no_session_is_lost(
        host,
        "ALTER TABLE enrich.ip_inventory ADD CONSTRAINT never CHECK (false) NOT VALID",
        "ALTER TABLE enrich.ip_inventory DROP CONSTRAINT never",
    );
}

pub fn a_failing_constraint_on_the_network_inventory_loses_no_session(host: &Host) {
    assert_no_session_is_lost(
        host,
        "ALTER TABLE enrich.asn_inventory ADD CONSTRAINT never CHECK (false) NOT VALID",
        "ALTER TABLE enrich.asn_inventory DROP CONSTRAINT never",
    );
}

pub fn a_failing_trigger_on_the_inventory_loses_no_session(host: &Host) {
    // The trigger is deferred. If it fired at commit, the extension could not catch its error. So the extension must
    // fire it earlier.
    assert_no_session_is_lost(
        host,
        "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
         CREATE TRIGGER boom BEFORE INSERT OR UPDATE ON enrich.ip_inventory
             FOR EACH ROW EXECUTE FUNCTION boom();",
        "DROP TRIGGER boom ON enrich.ip_inventory",
    );
}

pub fn a_renamed_inventory_loses_no_session(host: &Host) {
    assert_no_session_is_lost(
        host,
        "ALTER TABLE enrich.ip_inventory RENAME TO gone;
         ALTER TABLE enrich.asn_inventory RENAME COLUMN asn_number TO gone",
        "ALTER TABLE enrich.gone RENAME TO ip_inventory;
         ALTER TABLE enrich.asn_inventory RENAME COLUMN gone TO asn_number",
    );
}

pub fn a_missing_delta_table_loses_no_session(host: &Host) {
    assert_no_session_is_lost(
        host,
        "ALTER TABLE enrich.session_delta RENAME TO gone;
         ALTER TABLE enrich.enrichment_request RENAME TO gone_too",
        "ALTER TABLE enrich.gone RENAME TO session_delta;
         ALTER TABLE enrich.gone_too RENAME TO enrichment_request",
    );
}

pub fn a_locked_inventory_loses_no_session(host: &Host) {
    let mut db = attached(host);
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.ip_inventory, enrich.asn_inventory");
    // The client's lock_timeout ends the wait. The session is stored without its inventory rows.
    db.run("SET lock_timeout = '50ms'");
    db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
    db.run(&host.insert(&[("b", Some("1.1.1.1")), ("c", Some("48.0.0.1"))]));
    assert_eq!(db.number(&format!("SELECT count(*) FROM {}", host.table)), 3);
    locker.run("COMMIT");
    db.run("RESET lock_timeout");
    db.run(&host.insert(&[("d", Some("8.8.8.8"))]));
    assert_eq!(host.snapshot(&mut db, "d"), "15169|US|NULL");
    assert_exact(host, &mut db);
}

pub fn a_cancelled_insert_is_still_cancelled(host: &Host) {
    let mut db = attached(host);
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.ip_inventory, enrich.asn_inventory");
    let cancel = db.client.cancel_token();
    let mut watcher = db.another();
    let pid = db.backend_pid();
    std::thread::scope(|scope| {
        let insert = scope.spawn(|| db.try_run(&host.insert(&[("a", Some("8.8.8.8"))])));
        let waits = format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}");
        let state = server_tests::wait_until(
            "the insert waits for the lock or is done",
            || (watcher.rows(&waits), insert.is_finished()),
            |(waiting, finished)| *finished || waiting == &["t"],
        );
        // Some inserts do not wait for the inventory, so they have already finished and cannot be cancelled.
        if !state.1 {
            cancel.cancel_query(postgres::NoTls).expect("a cancel request can be sent");
            let outcome = insert.join().expect("the insert does not panic");
            assert_eq!(
                outcome.expect_err("the user cancelled it").code,
                "57014",
                "a cancel is obeyed, not swallowed"
            );
        }
    });
}

pub fn the_session_with_the_largest_network_number_is_stored(host: &Host) {
    let mut db = attached(host);
    db.run(&host.insert(&[("a", Some("45.0.0.1"))]));
    assert_eq!(host.snapshot(&mut db, "a"), "4294967295|BR|NULL");
    assert_exact(host, &mut db);
    assert_eq!(inventory(&mut db, "45.0.0.1"), ["4294967295|BR|1"]);
}
