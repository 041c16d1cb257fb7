//! Counts are exact: after a fold they equal a recount, for any statements, rollbacks and crashes before.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, Host, NOON, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::crowd_address;
use server_tests::{Database, Options, Session, database, fresh_database, wait_until};

const BOTH: [&Host; 2] = [&COWRIE, &SUMMARIES];

fn attached(host: &Host) -> Database<'static> {
    let mut db = database();
    host.create_attached(&mut db);
    db
}

#[track_caller]
fn assert_exact(host: &Host, db: &mut Session) {
    assert_counts_are_exact(db, &[(host.table, host.address)]);
}

/// Returns one statement that changes sessions, of any kind.
fn random_statement(host: &Host, random: &mut Random) -> String {
    let (table, key, address) = (host.table, host.key, host.address);
    let victim = format!("k{}", random.below(400));
    match random.below(10) {
        0..5 => {
            let rows: Vec<(String, Option<String>)> = (0..=random.below(4))
                .map(|i| {
                    // Distinct within a statement, because an upsert may touch a row only once.
                    let name = format!("k{}", random.below(100) * 4 + i);
                    let address = (!random.one_in(5)).then(|| crowd_address(random, 60));
                    (name, address)
                })
                .collect();
            let rows: Vec<(&str, Option<&str>)> =
                rows.iter().map(|(k, a)| (k.as_str(), a.as_deref())).collect();
            let conflict = match random.below(3) {
                0 => "DO NOTHING".to_owned(),
                1 => format!("({key}) DO UPDATE SET {address} = EXCLUDED.{address}"),
                _ => format!("({key}) DO UPDATE SET {t} = EXCLUDED.{t}", t = host.time),
            };
            format!("{} ON CONFLICT {conflict}", host.insert(&rows))
        }
        5 => format!("DELETE FROM {table} WHERE {key} = '{victim}'"),
        6 => {
            format!("UPDATE {table} SET {address} = '{}' WHERE {key} = '{victim}'", crowd_address(random, 60))
        }
        7 => format!("UPDATE {table} SET {address} = {} WHERE {key} = '{victim}'", host.no_address),
        8 => format!(
            "DO $$ BEGIN
                 {insert} ON CONFLICT DO NOTHING;
                 BEGIN
                     UPDATE {table} SET {address} = '{other}' WHERE {key} = '{victim}';
                     IF {fails} THEN RAISE EXCEPTION 'undone'; END IF;
                 EXCEPTION WHEN OTHERS THEN NULL;
                 END;
             END $$",
            insert = host.insert(&[(&victim, Some(&crowd_address(random, 60)))]),
            other = crowd_address(random, 60),
            fails = random.one_in(2),
        ),
        _ => format!("SELECT enrich.enrich_ip('{}')", crowd_address(random, 90)),
    }
}

/// Returns a transaction with nested savepoints, some released, some rolled back. In the end it is committed or not.
fn random_transaction(host: &Host, random: &mut Random) -> String {
    let mut script = String::from("BEGIN;\n");
    let mut open = Vec::new();
    for step in 0..=random.below(12) {
        match random.below(6) {
            0 => {
                script.push_str(&format!("SAVEPOINT s{step};\n"));
                open.push(step);
            }
            1 if !open.is_empty() => {
                // If this is an outer savepoint, the inner savepoints end with it.
                let depth = random.below(open.len() as u64) as usize;
                script.push_str(&format!("RELEASE SAVEPOINT s{};\n", open[depth]));
                open.truncate(depth);
            }
            2 if !open.is_empty() => {
                let depth = random.below(open.len() as u64) as usize;
                script.push_str(&format!("ROLLBACK TO SAVEPOINT s{};\n", open[depth]));
                open.truncate(depth + 1);
            }
            _ => {
                script.push_str(&random_statement(host, random));
                script.push_str(";\n");
            }
        }
    }
    script.push_str(if random.one_in(4) { "ROLLBACK" } else { "COMMIT" });
    script
}

#[test]
fn any_mix_of_transactions_leaves_exact_counts() {
    for seed in 1..=6 {
        let host = BOTH[seed as usize % 2];
        let mut db = attached(host);
        let mut random = Random::seeded(seed);
        let mut history = Vec::new();
        for round in 0..60 {
            let script = if random.one_in(3) {
                random_statement(host, &mut random)
            } else {
                random_transaction(host, &mut random)
            };
            db.run(&script);
            history.push(script);
            if random.one_in(10) {
                db.run("CALL enrich.fold_statistics()");
            }
            if round % 20 == 19 {
                eprintln!("seed {seed}, round {round}");
                assert_exact(host, &mut db);
            }
        }
    }
}

#[test]
fn folding_twice_changes_nothing() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
        db.run("CALL enrich.fold_statistics()");
        let state = "SELECT (SELECT jsonb_agg(concat(i.xmin, i.session_count)) FROM enrich.ip_inventory i),
                            (SELECT jsonb_agg(concat(n.xmin, n.total_session_count)) FROM enrich.asn_inventory n)";
        let before = db.one(state);
        db.run("CALL enrich.fold_statistics()");
        assert_eq!(db.one(state), before);
        assert_eq!(db.number("SELECT count(*) FROM enrich.session_delta"), 0);
        assert_eq!(db.number("SELECT count(*) FROM enrich.network_delta"), 0);
    }
}

/// There are more counts than a fold adds to networks in one step. Whatever the number of batches is, no count may
/// stay pending.
#[test]
fn many_batches_leave_nothing_pending_of_addresses_and_networks() {
    for pending in [40_000, 130_000] {
        let mut db = attached(&COWRIE);
        let mut random = Random::seeded(9);
        let rows: Vec<_> = (0..2_000).map(|n| (format!("k{n}"), crowd_address(&mut random, 900))).collect();
        let rows: Vec<_> = rows.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
        db.run(&COWRIE.insert(&rows));
        // Sessions that were stored and deleted, in random order, so that each count may be in any batch.
        db.run(&format!(
            "INSERT INTO enrich.session_delta
             SELECT i.ip_address, CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END
             FROM (SELECT ip_address, row_number() OVER () AS place, count(*) OVER () AS addresses
                   FROM enrich.ip_inventory) i
             JOIN generate_series(0, {pending} - 1) n ON n / 2 % i.addresses = i.place - 1
             ORDER BY hashint4(n)"
        ));
        assert!(db.number("SELECT count(*) FROM enrich.session_delta") >= pending);
        db.run("CALL enrich.fold_statistics()");
        for table in ["session_delta", "network_delta"] {
            assert_eq!(db.number(&format!("SELECT count(*) FROM enrich.{table}")), 0, "left in {table}");
        }
        assert_exact(&COWRIE, &mut db);
    }
}

#[test]
fn savepoints_keep_what_was_kept() {
    for host in BOTH {
        let mut db = attached(host);
        let one = |key: &str, address: &str| host.insert(&[(key, Some(address))]);
        db.run(&format!(
            "BEGIN; {};
             SAVEPOINT outer_; {};
                 SAVEPOINT inner_; {}; RELEASE inner_;
             ROLLBACK TO outer_; {};
                 SAVEPOINT inner_; {}; ROLLBACK TO inner_; {};
             COMMIT",
            one("a", "8.8.8.1"),
            one("b", "8.8.8.2"),
            one("c", "8.8.8.3"),
            one("d", "8.8.8.4"),
            one("e", "8.8.8.5"),
            one("f", "8.8.8.6"),
        ));
        assert_eq!(
            db.rows("SELECT ip_address FROM enrich.ip_inventory ORDER BY 1"),
            ["8.8.8.1", "8.8.8.4", "8.8.8.6"]
        );
        assert_exact(host, &mut db);
    }
}

#[test]
fn an_address_first_seen_in_a_rolled_back_savepoint_and_again_after_is_kept() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&format!(
            "BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
            host.insert(&[("a", Some("8.8.8.8"))]),
            host.insert(&[("b", Some("8.8.8.8"))]),
        ));
        assert_eq!(db.rows("SELECT ip_address, current_asn FROM enrich.ip_inventory"), ["8.8.8.8|15169"]);
        assert_exact(host, &mut db);
    }
}

#[test]
fn an_address_seen_before_a_rolled_back_savepoint_is_kept() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&format!(
            "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT",
            host.insert(&[("a", Some("8.8.8.8"))]),
            host.insert(&[("b", Some("8.8.8.8"))]),
        ));
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 1);
        assert_exact(host, &mut db);
    }
}

#[test]
fn an_error_in_the_transaction_undoes_its_counts() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
        db.run("BEGIN");
        db.run(&host.insert(&[("b", Some("1.1.1.1"))]));
        let refusal = db.refused(&host.insert(&[("c", Some("1.1.1.2")), ("a", Some("1.1.1.3"))]));
        assert_eq!(refusal.code, "23505");
        db.run("ROLLBACK");
        assert_exact(host, &mut db);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 1);
    }
}

#[test]
fn checking_constraints_early_counts_once() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&format!(
            "BEGIN; {}; SET CONSTRAINTS ALL IMMEDIATE; {}; SET CONSTRAINTS ALL DEFERRED; {}; COMMIT",
            host.insert(&[("a", Some("8.8.8.8"))]),
            host.insert(&[("b", Some("8.8.8.8")), ("c", Some("1.1.1.1"))]),
            host.insert(&[("d", Some("89.160.20.1"))]),
        ));
        assert_exact(host, &mut db);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 3);
    }
}

#[test]
fn a_session_inserted_changed_and_deleted_in_one_transaction_leaves_no_count() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&format!(
            "BEGIN; {}; UPDATE {t} SET {a} = '1.1.1.1'; UPDATE {t} SET {a} = '8.8.8.8';
             DELETE FROM {t}; COMMIT",
            host.insert(&[("a", Some("8.8.8.8"))]),
            t = host.table,
            a = host.address
        ));
        assert_exact(host, &mut db);
    }
}

#[test]
fn prepared_transactions_count_when_they_commit() {
    for host in BOTH {
        let mut db = attached(host);
        let prefix = format!("{}_{}", host.table, std::process::id());
        db.run(&host.insert(&[("a", Some("8.8.8.8"))]));
        db.run(&format!(
            "BEGIN; {}; PREPARE TRANSACTION '{prefix}_kept'",
            host.insert(&[("b", Some("8.8.8.8")), ("c", Some("1.1.1.1"))])
        ));
        db.run(&format!(
            "BEGIN; {}; SAVEPOINT s; {}; RELEASE s; PREPARE TRANSACTION '{prefix}_dropped'",
            host.insert(&[("d", Some("8.8.8.9"))]),
            host.insert(&[("e", Some("89.160.20.1"))])
        ));
        db.run(&host.insert(&[("f", Some("2a03:2880::1"))]));
        let mut other = db.another();
        other.run(&format!("COMMIT PREPARED '{prefix}_kept'"));
        other.run(&format!("ROLLBACK PREPARED '{prefix}_dropped'"));
        assert_exact(host, &mut db);
        assert_eq!(db.number(&format!("SELECT count(*) FROM {}", host.table)), 4);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 3);
    }
}

#[test]
fn rows_changed_through_a_cursor_are_counted() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&host.insert(&[("a", None), ("b", None), ("c", None), ("d", Some("1.1.1.1"))]));
        db.run(&format!(
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM {t} ORDER BY {k} FOR UPDATE;
             FETCH c; UPDATE {t} SET {a} = '8.8.8.8' WHERE CURRENT OF c;
             FETCH c; UPDATE {t} SET {a} = '8.8.8.9' WHERE CURRENT OF c;
             FETCH c; SAVEPOINT s; UPDATE {t} SET {a} = '8.8.8.9' WHERE CURRENT OF c;
             ROLLBACK TO s; COMMIT",
            t = host.table,
            k = host.key,
            a = host.address
        ));
        // A cursor WITH HOLD over a function that writes.
        db.run(
            "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT enrich.enrich_ip('89.160.20.1');
             COMMIT; FETCH held; CLOSE held",
        );
        assert_exact(host, &mut db);
        assert_eq!(
            db.rows(
                "SELECT ip_address, session_count FROM enrich.ip_inventory
                 WHERE ip_address << '8.8.8.0/24' ORDER BY 1"
            ),
            ["8.8.8.8|1", "8.8.8.9|1"]
        );
    }
}

#[test]
fn writing_ctes_and_merges_are_counted() {
    for host in BOTH {
        let mut db = attached(host);
        let (t, k, a) = (host.table, host.key, host.address);
        db.run(&format!(
            "WITH stored AS ({} RETURNING {k}), again AS ({} RETURNING {k})
             SELECT * FROM stored, again",
            host.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]),
            host.insert(&[("c", Some("8.8.8.8"))]),
        ));
        db.run(&format!(
            "MERGE INTO {t} USING (VALUES ('a', '8.8.8.9'), ('b', NULL), ('z', '1.1.1.2')) v(key, addr)
             ON {t}.{k} = v.key
             WHEN MATCHED AND v.addr IS NULL THEN DELETE
             WHEN MATCHED THEN UPDATE SET {a} = {address}
             WHEN NOT MATCHED THEN INSERT ({k}, {time}, {a}) VALUES (v.key, '{NOON}', {address})",
            time = host.time,
            address = if host.table == "sessions" { "v.addr" } else { "v.addr::inet" },
        ));
        assert_exact(host, &mut db);
        assert_eq!(db.number(&format!("SELECT count(*) FROM {t}")), 3);
    }
}

#[test]
fn a_session_that_the_users_own_deferred_trigger_stores_is_counted() {
    for host in BOTH {
        let mut db = attached(host);
        db.run(&format!(
            "CREATE TABLE orders (id int);
             CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {}; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER later AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION later()",
            host.insert(&[("later", Some("8.8.8.8"))])
        ));
        db.run(&format!(
            "BEGIN; INSERT INTO orders VALUES (1); {}; COMMIT",
            host.insert(&[("now", Some("1.1.1.1"))])
        ));
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 2);
        assert_exact(host, &mut db);
    }
}

#[test]
fn sessions_stored_by_functions_views_and_foreign_code_are_counted() {
    let mut db = attached(&SUMMARIES);
    db.run(
        "CREATE VIEW recent AS SELECT session_id, source_ip FROM session_summaries;
         CREATE FUNCTION store(k text, a inet) RETURNS void LANGUAGE sql SECURITY DEFINER
             AS $$ INSERT INTO public.session_summaries (session_id, source_ip) VALUES (k, a) $$;
         CREATE PROCEDURE store_many(n int) LANGUAGE plpgsql AS $$
         BEGIN
             FOR i IN 1..n LOOP
                 PERFORM store('p' || i, '8.8.8.0'::inet + i % 3);
                 IF i % 3 = 0 THEN COMMIT; ELSIF i % 5 = 0 THEN ROLLBACK; END IF;
             END LOOP;
         END $$",
    );
    db.run("INSERT INTO recent VALUES ('v', '1.1.1.1')");
    db.run("UPDATE recent SET source_ip = '1.1.1.2'");
    db.run("CALL store_many(31)");
    db.run("DELETE FROM recent WHERE session_id = 'p3'");
    assert_exact(&SUMMARIES, &mut db);
}

#[test]
fn an_inventory_row_that_the_owner_deleted_comes_back_with_the_next_session() {
    let mut db = attached(&COWRIE);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    db.run("SELECT enrich.enrich_ip('8.8.8.9'); CALL enrich.fold_statistics()");
    db.run("DELETE FROM enrich.ip_inventory WHERE ip_address = '8.8.8.9'");
    db.run(&COWRIE.insert(&[("b", Some("8.8.8.9"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.rows("SELECT ip_address, current_asn, session_count FROM enrich.ip_inventory ORDER BY 1"),
        ["8.8.8.8|15169|1", "8.8.8.9|15169|1"]
    );
}

/// Clients insert in a loop while their processes are killed.
#[test]
fn a_crash_at_any_point_leaves_exact_counts() {
    let cluster = cluster_with_world(&Options::named("counts-crash"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let handle = db.handle();
    let name = db.name.clone();
    drop(db);
    for (round, victim) in ["client", "folder", "postmaster", "client", "postmaster"].into_iter().enumerate()
    {
        let stop = AtomicBool::new(false);
        let commits = AtomicU64::new(0);
        let folds = AtomicU64::new(0);
        let folder_pid = AtomicU64::new(0);
        let client_pid = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for client in 0..4u64 {
                let (handle, stop, commits, client_pid) = (&handle, &stop, &commits, &client_pid);
                scope.spawn(move || {
                    let mut session = handle.session();
                    if client == 0 {
                        client_pid.store(session.backend_pid() as u64, Ordering::SeqCst);
                    }
                    let mut random = Random::seeded(round as u64 * 10 + client);
                    let mut serial = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let rows: Vec<(String, String)> = (0..5)
                            .map(|_| {
                                serial += 1;
                                (format!("{round}-{client}-{serial}"), crowd_address(&mut random, 3_000))
                            })
                            .collect();
                        let rows: Vec<(&str, Option<&str>)> =
                            rows.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
                        let script = format!(
                            "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
                            COWRIE.insert(&rows[..2]),
                            COWRIE.insert(&rows[2..4]),
                            COWRIE.insert(&rows[4..]),
                        );
                        match session.try_run(&script) {
                            Ok(()) => commits.fetch_add(1, Ordering::SeqCst),
                            // The server was stopped, as expected.
                            Err(_) => return,
                        };
                    }
                });
            }
            scope.spawn(|| {
                let mut session = handle.session();
                folder_pid.store(session.backend_pid() as u64, Ordering::SeqCst);
                while !stop.load(Ordering::SeqCst) {
                    match session.try_run("CALL enrich.fold_statistics()") {
                        Ok(()) => folds.fetch_add(1, Ordering::SeqCst),
                        Err(_) => return,
                    };
                }
            });
            wait_until(
                "the clients have committed and the folder has folded",
                || {
                    (
                        commits.load(Ordering::SeqCst),
                        folds.load(Ordering::SeqCst),
                        client_pid.load(Ordering::SeqCst),
                    )
                },
                |(commits, folds, pid)| *commits >= 100 && *folds >= 2 && *pid != 0,
            );
            match victim {
                "client" => cluster.kill_backend(client_pid.load(Ordering::SeqCst) as i64),
                "folder" => cluster.kill_backend(folder_pid.load(Ordering::SeqCst) as i64),
                _ => {
                    cluster.kill_postmaster();
                    cluster.start_again();
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        let mut session = cluster.session(&name);
        assert!(session.number("SELECT count(*) FROM sessions") > 0);
        assert_exact(&COWRIE, &mut session);
    }
}
