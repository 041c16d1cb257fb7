//! CALL build_asn_inventory(): creates networks from the stored addresses, of any origin.

use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, Session, database, fresh_database, wait_until};

const BUILD: &str = "CALL build_asn_inventory(progress => false)";

/// Inserts rows as a restore does: no trigger fires, and no foreign key is checked.
fn load(db: &mut Session, rows: &str) {
    db.run(&format!(
        "SET session_replication_role = replica;
         INSERT INTO ip_inventory (ip_address, current_asn, first_seen, last_seen, session_count, enrichment) {rows};
         RESET session_replication_role"
    ));
}

/// Loads `count` addresses of a Python system. Some are in networks that are missing, some in none. Some have an answer
/// of MaxMind, some of Team Cymru, some of both. Their order in the table differs from that of their key.
/// All times are in the past. The extension ignores times in the future, so with such times the result would depend
/// on the hour.
fn load_many(db: &mut Session, count: usize) {
    load(
        db,
        &format!(
            "SELECT '60.0.0.0'::inet + g * 3, CASE WHEN g % 3 = 0 THEN 64500 + g % 97 END,
                    timestamptz '2024-01-01' + g * interval '30 minutes', timestamptz '2025-01-01' + g * interval '30 minutes',
                    g % 7,
                    CASE WHEN g % 5 < 3 THEN jsonb_build_object('maxmind', jsonb_build_object(
                        'asn', 64500 + g % 97, 'asn_org', 'Network ' || g % 97, 'country', 'DE')) ELSE '{{}}' END
                    || CASE WHEN g % 5 > 1 THEN jsonb_build_object('cymru', jsonb_build_object(
                        'asn', (64500 + g % 97)::text, 'asn_org', 'NETWORK-' || g % 97, 'country', 'NL',
                        'registry', 'ripencc')) ELSE '{{}}' END
             FROM generate_series(1, {count}) g
             ORDER BY g * 7919 % {count}"
        ),
    );
}

/// Everything that a call may write, without the time of the call.
const STATE: &str = "
    SELECT 'network', asn_number::text, concat_ws(',', organization_name, organization_country, rir_registry, asn_type,
           first_seen, last_seen, unique_ip_count, total_session_count, enrichment)
    FROM asn_inventory
    UNION ALL SELECT 'address', host(ip_address), concat_ws(',', current_asn, session_count, enrichment) FROM ip_inventory
    UNION ALL SELECT 'history', host(ip_address), concat_ws(',', asn_number, verification_source) FROM ip_asn_history
    UNION ALL SELECT 'rejected', row_key, concat_ws(',', procedure, relation, reason, content) FROM rejected_row
    UNION ALL SELECT 'pending', asn_number::text, '' FROM network_delta
    ORDER BY 1, 2, 3";

/// The versions of the rows. Every write creates a new version, even if it changes no value.
const VERSIONS: &str = "
    SELECT 'network', asn_number::text, concat(ctid, xmin, xmax) FROM asn_inventory
    UNION ALL SELECT 'address', host(ip_address), concat(ctid, xmin, xmax) FROM ip_inventory
    UNION ALL SELECT 'history', host(ip_address), concat(ctid, xmin, xmax) FROM ip_asn_history
    UNION ALL SELECT 'rejected', row_key, concat(ctid, xmin, xmax) FROM rejected_row
    UNION ALL SELECT 'pending', asn_number::text, '' FROM network_delta
    ORDER BY 1, 2, 3";

fn result(db: &mut Session) -> serde_json::Value {
    db.one("SELECT result FROM enrich.procedure_call WHERE procedure = 'build_asn_inventory'")
        .parse()
        .expect("the result is JSON")
}

#[test]
fn missing_networks_are_made_with_what_each_source_says_and_addresses_are_placed() {
    let mut db = database();
    load(
        &mut db,
        r#"VALUES
        ('60.0.0.1'::inet, 64500, '2024-05-01Z'::timestamptz, '2024-05-02Z'::timestamptz, 3,
            '{"maxmind": {"asn": 64500, "asn_org": "Example Hosting", "country": "DE"}}'::jsonb),
        ('60.0.0.2', 64501, '2024-05-01Z', '2024-05-02Z', 0,
            '{"cymru": {"asn": 64501, "asn_org": "EXAMPLE-UNI University, NL", "country": "NL", "registry": "ripencc"}}'),
        ('60.0.0.3', NULL, '2024-04-01Z', '2024-06-02Z', 5, '{"maxmind": {"asn": 64500, "asn_org": "Another name"}}'),
        ('60.0.0.4', NULL, NULL, NULL, 0, '{"maxmind": {"country": "SE"}, "cymru": {"asn": "AS64502", "registry": "ARIN"}}'),
        ('60.0.0.5', 64503, NULL, NULL, 1, '{"maxmind": {"asn": 64503, "asn_org": "Maxmind name", "country": "SE"},
            "cymru": {"asn": 64503, "asn_org": "CYMRU-NAME", "registry": "apnic"}}'),
        ('60.0.0.6', 15169, NULL, NULL, 0, '{}'),
        ('60.0.0.7', NULL, NULL, NULL, 9, '{}')"#,
    );
    db.run(BUILD);
    assert_eq!(
        db.rows(
            "SELECT asn_number, organization_name, organization_country, rir_registry, asn_type, unique_ip_count,
                    total_session_count, first_seen::date, last_seen::date
             FROM asn_inventory ORDER BY 1"
        ),
        [
            "15169|NULL|NULL|ARIN|HOSTING|1|0|NULL|NULL",
            "64500|Example Hosting|DE|NULL|HOSTING|2|8|2024-04-01|2024-06-02",
            "64501|EXAMPLE-UNI University|NL|RIPE|EDUCATION|1|0|2024-05-01|2024-05-02",
            "64502|NULL|SE|ARIN|UNKNOWN|1|0|NULL|NULL",
            "64503|Maxmind name|SE|APNIC|UNKNOWN|1|1|NULL|NULL",
        ]
    );
    assert_eq!(
        db.rows("SELECT asn_number, enrichment -> 'provenance' FROM asn_inventory ORDER BY 1"),
        [
            r#"15169|{"rir_registry": "iana"}"#,
            r#"64500|{"organization_name": "maxmind", "organization_country": "maxmind"}"#,
            r#"64501|{"rir_registry": "cymru", "organization_name": "cymru", "organization_country": "cymru"}"#,
            r#"64502|{"rir_registry": "cymru", "organization_country": "maxmind"}"#,
            r#"64503|{"rir_registry": "cymru", "organization_name": "maxmind", "organization_country": "maxmind"}"#,
        ]
    );
    // Addresses that already had a network keep the history that another source wrote.
    assert_eq!(
        db.rows("SELECT host(ip_address), asn_number, verification_source FROM ip_asn_history ORDER BY 1"),
        ["60.0.0.3|64500|maxmind", "60.0.0.4|64502|cymru"]
    );
    assert_eq!(
        result(&mut db),
        serde_json::json!({"scanned": 7, "unique": 5, "created": 5, "updated": 0, "skipped": 0, "corrected": 4})
    );
}

#[test]
fn a_better_source_stays_and_a_lesser_one_is_replaced() {
    let mut db = database();
    db.run(
        "SELECT ensure_asn_inventory(64500, 'By hand', 'FR', 'RIPE');
         INSERT INTO asn_inventory (asn_number, organization_name, organization_country, enrichment) VALUES
             (64501, 'CYMRU, NL', 'NL', '{\"provenance\": {\"organization_name\": \"cymru\", \"organization_country\": \"cymru\"}}'),
             (64502, 'Maxmind', 'SE', '{\"provenance\": {\"organization_name\": \"maxmind\", \"organization_country\": \"maxmind\"}}'),
             (64503, 'Nobody knows who said that', NULL, '{}')",
    );
    for (n, asn) in (64500..=64503).enumerate() {
        load(
            &mut db,
            &format!(
                r#"VALUES ('60.0.{n}.1'::inet, {asn}, NULL::timestamptz, NULL::timestamptz, 0,
                       '{{"maxmind": {{"asn": {asn}, "asn_org": "Files", "country": "US"}}}}'::jsonb)"#
            ),
        );
    }
    let networks = "SELECT asn_number, organization_name, organization_country, rir_registry FROM asn_inventory ORDER BY 1";
    db.run(BUILD);
    assert_eq!(
        db.rows(networks),
        ["64500|By hand|FR|RIPE", "64501|Files|NL|NULL", "64502|Maxmind|SE|NULL", "64503|Files|US|NULL"]
    );
    assert_eq!(result(&mut db)["updated"], 2);
    for (n, asn) in (64500..=64503).enumerate() {
        load(
            &mut db,
            &format!(
                r#"VALUES ('60.0.{n}.2'::inet, {asn}, NULL::timestamptz, NULL::timestamptz, 0,
                       '{{"cymru": {{"asn": {asn}, "asn_org": "ROUTES", "country": "GB", "registry": "ripencc"}}}}'::jsonb)"#
            ),
        );
    }
    db.run(BUILD);
    // An answer of Team Cymru is not replaced: an old document must not correct a newer answer. A name of a file is
    // better than one of Team Cymru.
    assert_eq!(
        db.rows(networks),
        ["64500|By hand|FR|RIPE", "64501|Files|NL|RIPE", "64502|Maxmind|GB|RIPE", "64503|Files|GB|RIPE"]
    );
    assert_eq!(result(&mut db)["updated"], 3);
    assert_eq!(
        db.one("SELECT enrichment -> 'provenance' FROM asn_inventory WHERE asn_number = 64502"),
        r#"{"rir_registry": "cymru", "organization_name": "maxmind", "organization_country": "cymru"}"#
    );
}

#[test]
fn a_second_call_writes_nothing() {
    let mut db = database();
    load_many(&mut db, 2_000);
    load(
        &mut db,
        "SELECT '70.0.0.0'::inet + g, NULL, NULL, NULL, 0, jsonb_build_object('maxmind', g) FROM generate_series(1, 50) g",
    );
    db.run("CALL build_asn_inventory(100, false)");
    let versions = db.rows(VERSIONS);
    let first = result(&mut db);
    assert_eq!(
        first,
        serde_json::json!({"scanned": 2050, "unique": 97, "created": 97, "updated": first["updated"], "skipped": 50, "corrected": 97})
    );
    for call in ["CALL build_asn_inventory(100, false)", "CALL build_asn_inventory(7, false)", BUILD] {
        db.run(call);
        assert!(db.rows(VERSIONS) == versions, "{call} has written something");
        assert_eq!(
            result(&mut db),
            serde_json::json!({"scanned": 2050, "unique": 97, "created": 0, "updated": 0, "skipped": 50, "corrected": 0})
        );
    }
}

#[test]
fn the_size_of_batches_makes_no_difference() {
    let mut states: Vec<Vec<String>> = Vec::new();
    for call in [BUILD, "CALL build_asn_inventory(1, false)", "CALL build_asn_inventory(250, false, true)"] {
        let mut db = database();
        load_many(&mut db, 500);
        db.run(call);
        states.push(db.rows(STATE));
        assert_counts_are_exact_without_tables(&mut db);
    }
    assert!(states[0].len() > 900, "{} lines", states[0].len());
    assert!(states[0] == states[1] && states[0] == states[2]);
}

/// Compares the counts of networks with the counts of their addresses, because no session table is attached.
#[track_caller]
fn assert_counts_are_exact_without_tables(db: &mut Session) {
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.rows(
            "SELECT a.asn_number, a.unique_ip_count, a.total_session_count, i.addresses, i.sessions
             FROM enrich.asn_inventory a
             LEFT JOIN (SELECT current_asn, count(*) AS addresses, sum(session_count) AS sessions
                        FROM enrich.ip_inventory GROUP BY 1) i ON i.current_asn = a.asn_number
             WHERE (a.unique_ip_count, a.total_session_count)
                   IS DISTINCT FROM (COALESCE(i.addresses, 0), COALESCE(i.sessions, 0))"
        ),
        [""; 0]
    );
}

#[test]
fn wrong_counts_and_times_are_corrected_and_pending_ones_are_not_added_twice() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.9")), ("c", Some("1.1.1.1"))]));
    // Nothing is folded yet. Three sessions and their counts for networks are pending.
    db.run(BUILD);
    assert_eq!(result(&mut db)["corrected"], 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    db.run(
        "UPDATE asn_inventory SET unique_ip_count = 77, first_seen = now() WHERE asn_number = 15169;
         UPDATE asn_inventory SET total_session_count = -5, last_seen = NULL WHERE asn_number = 13335;
         INSERT INTO asn_inventory (asn_number, unique_ip_count, total_session_count) VALUES (64500, 3, 4)",
    );
    db.run(&COWRIE.insert(&[("d", Some("8.8.8.8"))]));
    db.run(BUILD);
    assert_eq!(result(&mut db)["corrected"], 3);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_eq!(
        db.rows(
            "SELECT asn_number, unique_ip_count, total_session_count, first_seen, last_seen FROM asn_inventory ORDER BY 1"
        ),
        [
            "13335|1|1|2024-05-01 12:00:00+00|2024-05-01 12:00:00+00",
            "15169|2|3|2024-05-01 12:00:00+00|2024-05-01 12:00:00+00",
            // J7: a network without an address stays, without counts.
            "64500|0|0|NULL|NULL",
        ]
    );
    assert_eq!(result(&mut db)["unique"], 2);
}

#[test]
fn a_network_number_that_is_none_is_listed_and_stops_nothing() {
    let mut db = database();
    load(
        &mut db,
        r#"SELECT '60.0.0.0'::inet + g, asn, NULL::timestamptz, NULL::timestamptz, 1, '{"maxmind": {"asn": 64500}}'::jsonb
           FROM unnest('{0,-5,4294967296,64501}'::bigint[]) WITH ORDINALITY u(asn, g)"#,
    );
    db.run(BUILD);
    assert_eq!(db.rows("SELECT asn_number FROM asn_inventory"), ["64501"]);
    assert_eq!(
        db.rows("SELECT row_key, reason FROM rejected_row ORDER BY 1"),
        [
            "60.0.0.1|current_asn is 0, not an ASN",
            "60.0.0.2|current_asn is -5, not an ASN",
            "60.0.0.3|current_asn is 4294967296, not an ASN",
        ]
    );
    assert_eq!(result(&mut db)["skipped"], 3);
}

/// Loads malformed documents, of each kind in turn.
fn load_malformed(db: &mut Session, count: usize) {
    load(
        db,
        &format!(
            r#"SELECT '70.0.0.0'::inet + g, CASE WHEN g % 2 = 0 THEN 64500 + g % 97 END, NULL::timestamptz, NULL::timestamptz, 0,
                  (ARRAY['[]', 'null', '"text"', '17', 'true', '[{{"maxmind": {{"asn": 1}}}}]',
                         '{{"maxmind": "x"}}', '{{"maxmind": [], "cymru": 5}}', '{{"cymru": {{"asn": {{"a": 1}}}}}}',
                         '{{"maxmind": {{"asn": 0}}}}', '{{"maxmind": {{"asn": "4294967296"}}}}',
                         '{{"maxmind": {{"asn": true, "asn_org": [["deep"]], "country": 5}}}}',
                         '{{"maxmind": {{"country": "Germany"}}, "cymru": {{"registry": {{}}}}}}',
                         '{{"maxmind": {{"asn": "x", "country": "DE"}}, "cymru": {{"asn": 64500, "asn_org": 5}}}}']::jsonb[]
                   || jsonb_build_object('maxmind', jsonb_build_object('country', repeat('long', 20000))))[g % 15 + 1]
               FROM generate_series(0, {count} - 1) g"#
        ),
    );
}

#[test]
fn a_thousand_malformed_documents_among_many_are_counted_listed_and_warned_of_once() {
    let mut db = database();
    load_many(&mut db, 19_000);
    load_malformed(&mut db, 1_000);
    let said = db.notices("CALL enrich.build_asn_inventory(progress => false)");
    let expected = "WARNING:  build_asn_inventory: the enrichment documents of 1000 addresses are invalid, or partly invalid";
    assert_eq!(said.matches("WARNING").count(), 1, "{said}");
    assert!(said.contains(expected), "{said}");
    // J10: the summary contains the number of skipped addresses.
    let skipped = result(&mut db)["skipped"].as_i64().expect("a number");
    // For some kinds the valid part is used, so these addresses are not skipped.
    assert_eq!(skipped, 934);
    assert!(
        said.contains(&format!("scanned 20000, unique 97, created 97, updated 0, skipped {skipped}, ")),
        "{said}"
    );
    assert_eq!(
        db.one("SELECT count(*), count(DISTINCT row_key), count(DISTINCT reason) = 10, bool_and(row_key LIKE '70.0.%') FROM rejected_row"),
        "1000|1000|t|t"
    );
    assert_counts_are_exact_without_tables(&mut db);
    eprintln!("{}", said.trim_end());
}

#[test]
fn a_verbose_call_shows_some_of_those_that_it_skips() {
    let mut db = database();
    load_malformed(&mut db, 100);
    let said = db.notices("CALL enrich.build_asn_inventory(50, false, true)");
    let shown = said.lines().filter(|line| line.contains("skipped 70.0.0.")).count();
    assert_eq!(shown, 20, "ten of each batch: {said}");
    assert!(
        said.contains("skipped 70.0.0.0: the value of column \"enrichment\" is not a JSON object"),
        "{said}"
    );
    assert_eq!(
        said.lines().filter(|line| line.contains("further addresses of this batch")).count(),
        2,
        "{said}"
    );
    let quiet = db.notices("CALL enrich.build_asn_inventory(50, false, false)");
    assert!(!quiet.contains("skipped 70."), "{quiet}");
    assert!(!quiet.contains("[#"), "{quiet}");
    let with_bar = db.notices("CALL enrich.build_asn_inventory(50)");
    assert!(
        with_bar.contains("build_asn_inventory: addresses [####################] 100 %, 100 of 100"),
        "{with_bar}"
    );
}

#[test]
fn the_last_report_of_a_phase_with_nothing_to_do_is_complete() {
    let mut db = database();
    db.run("CREATE TABLE s (ip inet); SELECT enrich.attach_session_table('s', 'ip')");
    for call in
        ["enrich.build_asn_inventory()", "enrich.backfill_sessions('s')", "enrich.refresh_session_counts()"]
    {
        let said = db.notices(&format!("CALL {call}"));
        let mut phases = std::collections::BTreeMap::new();
        for line in said.lines().filter(|line| line.contains(" %, ")) {
            let (phase, rest) = line.split_once(" [").expect("a bar");
            phases.insert(phase, rest);
        }
        for (phase, last) in phases {
            assert!(last.contains("] 100 %, "), "{call}, {phase}: {last}");
        }
        assert!(!said.contains("0 of 1"), "{said}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let mut db = database();
    for (call, code) in [
        ("build_asn_inventory(0)", "22023"),
        ("build_asn_inventory(-1)", "22023"),
        ("build_asn_inventory(1000001)", "22023"),
        ("build_asn_inventory(NULL)", "22004"),
        ("build_asn_inventory(progress => NULL)", "22004"),
        ("build_asn_inventory(verbose => NULL)", "22004"),
    ] {
        assert_eq!(db.refused(&format!("CALL {call}")).code, code, "{call}");
    }
    assert_eq!(db.number("SELECT count(*) FROM procedure_call"), 0);
    db.run("CALL build_asn_inventory(1000000)");
}

#[test]
fn inside_a_transaction_block_it_is_one_transaction() {
    let mut db = database();
    let mut clean = database();
    load_many(&mut db, 300);
    load_many(&mut clean, 300);
    let before = db.rows(STATE);
    db.run("BEGIN; CALL build_asn_inventory(10, false); ROLLBACK");
    assert!(db.rows(STATE) == before);
    assert_eq!(db.number("SELECT count(*) FROM procedure_call"), 0);
    db.run("BEGIN; CALL build_asn_inventory(10, false); CALL build_asn_inventory(10, false); COMMIT");
    // The next fold adds the counts.
    db.run("CALL fold_statistics()");
    clean.run(BUILD);
    assert!(db.rows(STATE) == clean.rows(STATE));
    assert_counts_are_exact_without_tables(&mut db);
}

/// The backend is killed, so the server restarts. Committed work stays, and the next call continues after it.
#[test]
fn killed_again_and_again_it_comes_to_what_one_clean_run_does() {
    const ADDRESSES: usize = 20_000;
    let cluster = cluster_with_world(&Options::named("build-killed").conf("restart_after_crash = on"));
    let mut db = fresh_database(&cluster);
    let mut clean = fresh_database(&cluster);
    let (name, clean_name) = (db.name.clone(), clean.name.clone());
    for db in [&mut db, &mut clean] {
        load_many(db, ADDRESSES - 280);
        load_malformed(db, 280);
    }
    clean.run("CALL build_asn_inventory(40, false)");
    let (expected, report) = (clean.rows(STATE), result(&mut clean));
    drop((db, clean));

    let done = "SELECT COALESCE(max((resume_at ->> 'scanned')::bigint), 0) FROM enrich.procedure_call WHERE ended_at IS NULL";
    let mut reached: Vec<i64> = Vec::new();
    for least in [1, 5_000, 12_000] {
        let victim = cluster.session(&name);
        let mut watcher = cluster.session(&name);
        let pid = std::thread::scope(|scope| {
            let mut victim = victim;
            let pid = victim.backend_pid();
            let call = scope.spawn(move || victim.try_run("CALL build_asn_inventory(40, false)"));
            wait_until("it has come further", || watcher.number(done), |done| *done >= least);
            let left = ADDRESSES as i64 - reached.last().copied().unwrap_or_default();
            assert_eq!(
                watcher.one("SELECT procedure, pid, phase, total FROM enrich.enrich_progress"),
                format!("build_asn_inventory|{pid}|addresses|{left}")
            );
            drop(watcher);
            cluster.kill_backend(pid);
            assert!(call.join().expect("the thread ends").is_err(), "it was killed too late");
            pid
        });
        let mut session = cluster.session(&name);
        assert_eq!(session.rows("SELECT pid FROM enrich.enrich_progress"), [""; 0], "{pid} is dead");
        reached.push(session.number(done));
    }
    assert!(reached.is_sorted() && reached[2] < ADDRESSES as i64, "{reached:?}");
    let mut db = cluster.session(&name);
    db.run("CALL build_asn_inventory(40, false)");
    let state = db.rows(STATE);
    let differing = |these: &[String], those: &[String]| {
        let those: std::collections::HashSet<&String> = those.iter().collect();
        these.iter().filter(|row| !those.contains(row)).take(5).cloned().collect::<Vec<_>>()
    };
    assert!(
        state == expected,
        "after kills at {reached:?}: {:?} in place of {:?}",
        differing(&state, &expected),
        differing(&expected, &state)
    );
    // The report includes the work of the killed calls.
    let report_after = result(&mut db);
    for key in ["scanned", "unique", "created", "skipped"] {
        assert_eq!(report_after[key], report[key], "{key} after kills at {reached:?}");
    }
    eprintln!("killed when {reached:?} of {ADDRESSES} were done; {report_after}");
    drop(db);
    cluster.session(&clean_name).run(BUILD);
}

/// Sessions are stored, statistics are folded and addresses are enriched in any order, while the procedure runs.
#[test]
fn beside_sessions_and_folding_counts_are_exact_and_nothing_deadlocks() {
    const ROUNDS: usize = 60;
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let crowd = |n: usize| server_tests::world::crowd_member(n as u64);
    // Half of the sessions' addresses exist already, without a network.
    load(
        &mut db,
        "SELECT ('23.' || g % 256 || '.0.' || g / 256 + 1)::inet, NULL::bigint, NULL::timestamptz, NULL::timestamptz, 0,
                jsonb_build_object('maxmind', jsonb_build_object('asn', 200000 + g % 256, 'asn_org', 'Crowd network ' || g % 256))
         FROM generate_series(0, 4999) g",
    );
    let handle = db.handle();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (handle, is_over) = (&handle, &is_over);
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let mut session = handle.session();
                    for round in 0..ROUNDS {
                        let keys: Vec<(String, String)> = (0..50)
                            .map(|n| {
                                (
                                    format!("w{writer}-{round}-{n}"),
                                    crowd((round * 7919 + n * 131 + writer * 17) % 9_000),
                                )
                            })
                            .collect();
                        let rows: Vec<_> = keys.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
                        let host = if writer == 0 { &SUMMARIES } else { &COWRIE };
                        session.run(&host.insert(&rows));
                        if round % 5 == 0 {
                            let table = host.table;
                            session.run(&format!(
                                "DELETE FROM {table} WHERE {} LIKE 'w{writer}-{round}-1%'",
                                host.key
                            ));
                        }
                    }
                })
            })
            .collect();
        let folder = scope.spawn(move || {
            let mut session = handle.session();
            while !is_over.load(Ordering::Relaxed) {
                session.run("CALL fold_statistics()");
            }
        });
        let enricher = scope.spawn(move || {
            let mut session = handle.session();
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                let all: Vec<String> = (0..40).map(|n| crowd((round * 977 + n * 61) % 9_000)).collect();
                session.run(&format!("SELECT enrich_ips('{{{}}}', true)", all.join(",")));
                round += 1;
            }
        });
        let builder = scope.spawn(move || {
            let mut session = handle.session();
            let mut calls = 0;
            while !is_over.load(Ordering::Relaxed) || calls < 3 {
                session.run("CALL build_asn_inventory(200, false)");
                calls += 1;
            }
            calls
        });
        for writer in writers {
            writer.join().expect("sessions are stored");
        }
        is_over.store(true, Ordering::Relaxed);
        folder.join().expect("folding never fails");
        enricher.join().expect("enriching never fails");
        eprintln!("{} calls beside them", builder.join().expect("building never fails"));
    });
    db.run(BUILD);
    assert_eq!(result(&mut db)["corrected"], 0, "counts were exact without the last call");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NULL"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    // One line of history for each address, so no address was assigned twice.
    assert_eq!(
        db.number(
            "SELECT count(*) FROM (SELECT FROM ip_asn_history GROUP BY ip_address HAVING count(*) > 1) twice"
        ),
        0
    );
}

/// Tests three states of the planner's statistics about the inventory: there are no statistics, or they say that
/// almost every address has a network, or that there are almost no addresses. Fifty addresses are in the table in
/// reverse order of their key. Another transaction has locked the first one.
/// A call that compared before it had locked the rows would replace the values.
#[test]
fn a_better_value_that_is_written_meanwhile_stays() {
    let mut db = database();
    for asn in [64500, 64501] {
        db.run(&format!("INSERT INTO asn_inventory (asn_number) VALUES ({asn})"));
    }
    load(
        &mut db,
        "SELECT '8.8.8.0'::inet + n, 64500 + n % 2, NULL::timestamptz, NULL::timestamptz, 0,
                jsonb_build_object('maxmind', jsonb_build_object('asn', 64500 + n % 2, 'asn_org', 'Of a document', 'country', 'US'))
         FROM generate_series(1, 10) n",
    );
    let mut other = db.another();
    other.run("BEGIN; SELECT ensure_asn_inventory(64500, 'By hand', 'SE', 'LACNIC')");
    let mut caller = db.another();
    let pid = caller.backend_pid();
    let running = std::thread::spawn(move || caller.try_run("CALL build_asn_inventory()"));
    wait_until(
        "the call waits for the row",
        || {
            let waits = format!(
                "SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted AND locktype <> 'advisory'"
            );
            (db.number(&waits), running.is_finished())
        },
        |(waits, finished)| *waits == 1 || *finished,
    );
    assert!(!running.is_finished(), "it did not wait: {:?}", running.join());
    other.run("COMMIT");
    running.join().expect("no panic").expect("the call ends");
    assert_eq!(
        db.rows(
            "SELECT asn_number, organization_name, organization_country, rir_registry,
                    enrichment #>> '{provenance,organization_name}', enrichment #>> '{provenance,organization_country}'
             FROM asn_inventory ORDER BY 1"
        ),
        ["64500|By hand|SE|LACNIC|manual|manual", "64501|Of a document|US|NULL|maxmind|maxmind"]
    );
}

#[test]
fn addresses_are_locked_in_the_order_of_their_key() {
    for placed in [0, 1, 5_000] {
        let mut db = database();
        db.run("INSERT INTO asn_inventory (asn_number) VALUES (64500)");
        let rows = |of: &str| {
            format!(
                "SELECT {of}, NULL::timestamptz, NULL::timestamptz, 0, '{{\"maxmind\": {{\"asn\": 64500}}}}'::jsonb"
            )
        };
        if placed > 0 {
            let known = rows("'70.0.0.0'::inet + g, 64500");
            load(&mut db, &format!("{known} FROM generate_series(1, {placed}) g"));
            db.run("ANALYZE ip_inventory");
        }
        let unplaced = rows("'60.0.0.0'::inet + g, NULL::bigint");
        load(&mut db, &format!("{unplaced} FROM generate_series(1, 50) g ORDER BY g DESC"));
        let (mut holder, mut builder) = (db.another(), db.another());
        let pid = builder.backend_pid();
        let hold =
            |address| format!("SELECT FROM ip_inventory WHERE ip_address = '{address}' FOR UPDATE NOWAIT");
        holder.run(&format!("BEGIN; {}", hold("60.0.0.1")));
        let last = std::thread::scope(|scope| {
            let building = scope.spawn(move || builder.run(BUILD));
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
            );
            wait_until("it waits for the first", || db.number(&waits), |waiting| *waiting == 1);
            let last = holder.try_run(&hold("60.0.0.50"));
            holder.run("ROLLBACK");
            building.join().expect("it is built");
            last
        });
        last.unwrap_or_else(|_| {
            panic!("beside {placed} placed ones it held the last while it waited for the first")
        });
        assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NULL"), 0);
    }
}

/// The procedure first folds counts, and so locks networks. It must have released these locks before it creates
/// networks.
#[test]
fn what_was_folded_on_the_way_is_locked_no_more_when_networks_are_created() {
    const FOLDED: usize = 100_000;
    let mut db = database();
    load(
        &mut db,
        &format!(
            "SELECT '60.0.0.0'::inet + g, NULL::bigint, NULL::timestamptz, NULL::timestamptz, 0,
                    jsonb_build_object('maxmind', jsonb_build_object('asn', CASE WHEN g < {FOLDED} THEN 64500 ELSE 64501 END))
             FROM generate_series(0, {FOLDED} + 10) g"
        ),
    );
    let (mut holder, mut builder) = (db.another(), db.another());
    let pid = builder.backend_pid();
    holder.run("BEGIN; INSERT INTO asn_inventory (asn_number) VALUES (64501)");
    let other = std::thread::scope(|scope| {
        let building = scope
            .spawn(move || builder.run(&format!("CALL build_asn_inventory({FOLDED}, progress => false)")));
        let waits =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        wait_until("it waits for the new network", || db.number(&waits), |waiting| *waiting == 1);
        let other = holder.try_run("SELECT FROM asn_inventory WHERE asn_number = 64500 FOR UPDATE NOWAIT");
        holder.run("ROLLBACK");
        building.join().expect("it is built");
        other
    });
    other.expect("nobody holds the network that was folded");
    assert_eq!(
        db.rows("SELECT asn_number, unique_ip_count FROM asn_inventory ORDER BY 1"),
        ["64500|100000", "64501|11"]
    );
}
