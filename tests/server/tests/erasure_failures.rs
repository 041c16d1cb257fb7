//! Erasures beside live inserts, erasures that are killed, refused or prevented by a trigger, and the status that shows failures.

use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::database::cluster_with_world;
use server_tests::documentation::grants;
use server_tests::erasures::{TABLES, V4, mentions, spread, stored};
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, database, fresh_database, wait_until};

const STATUS: &str =
    "SELECT failed_calls, last_expiry IS NOT NULL, is_scheduled FROM enrich.erasure_status()";

/// Ends the inserts when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn live_inserts_of_the_same_and_of_other_addresses_keep_counts_exact() {
    let mut db = database();
    stored(&mut db);
    let is_over = AtomicBool::new(false);
    let handle = db.handle();
    std::thread::scope(|scope| {
        let inserts: Vec<_> = (0..3)
            .map(|client| {
                let (handle, is_over) = (&handle, &is_over);
                scope.spawn(move || {
                    let mut session = handle.session();
                    let mut stored = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // Every tenth session is of the address that is being erased.
                        let address = if stored % 10 == 0 {
                            V4.to_owned()
                        } else {
                            format!("8.8.8.{}", 9 + stored % 40)
                        };
                        session.run(&COWRIE.insert(&[(&format!("{client}-{stored}"), Some(&address))]));
                        stored += 1;
                    }
                    stored
                })
            })
            .collect();
        // Also if an assertion fails: otherwise the inserts would never end.
        let over = Over(&is_over);
        for _ in 0..20 {
            db.run(&format!("CALL erase_address('{V4}')"));
            db.run("CALL erase_address('8.8.8.10')");
        }
        drop(over);
        let stored: Vec<i64> =
            inserts.into_iter().map(|insert| insert.join().expect("no insert fails")).collect();
        assert!(stored.iter().sum::<i64>() > 50, "{stored:?}");
        assert_eq!(db.number("SELECT count(*) FROM sessions") - 6, stored.iter().sum::<i64>());
    });
    assert_counts_are_exact(&mut db, &TABLES);
    db.run(&format!("CALL erase_address('{V4}')"));
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("CALL refresh_session_counts()");
    assert_eq!(
        db.one("SELECT result -> 'addresses_corrected' FROM procedure_call WHERE procedure = 'refresh_session_counts'"),
        "0"
    );
}

#[test]
fn a_call_that_is_killed_and_called_again_ends_as_one_clean_run() {
    let cluster = cluster_with_world(&Options::named("erasure_kills").conf("restart_after_crash = on"));
    let mut db = fresh_database(&cluster);
    stored(&mut db);
    db.run(
        "INSERT INTO sessions (id, starttime, ip) SELECT n, '2024-05-01', '8.8.8.8' FROM generate_series(1, 12000) n",
    );
    let name = db.name.clone();
    drop(db);
    let mut phases = Vec::new();
    for hold in [
        "LOCK TABLE session_summaries",
        "SELECT FROM sessions WHERE id = 'locked' FOR UPDATE",
        "LOCK TABLE enrich.network_delta IN SHARE MODE",
        "SELECT FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8' FOR UPDATE",
        "LOCK TABLE enrich.ip_asn_history IN SHARE MODE",
        "LOCK TABLE enrich.rejected_row IN SHARE MODE",
    ] {
        let mut holder = cluster.session(&name);
        // An earlier call may have erased all other sessions before it waited.
        holder.run(
            "INSERT INTO sessions (id, starttime, ip) VALUES ('locked', '2024-05-01', '8.8.8.8')
             ON CONFLICT (id) DO UPDATE SET ip = '8.8.8.8'",
        );
        holder.run(&format!("BEGIN; {hold}"));
        let mut caller = cluster.session(&name);
        let pid = caller.backend_pid();
        let running = std::thread::spawn(move || caller.try_run("CALL enrich.erase_address('8.8.8.8')"));
        wait_until(
            "the call waits",
            || {
                let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
                (cluster.session(&name).number(&waits), running.is_finished())
            },
            |(waits, finished)| *waits == 1 || *finished,
        );
        assert!(!running.is_finished(), "it did not wait for {hold}: {:?}", running.join());
        phases.extend(cluster.session(&name).rows("SELECT phase FROM enrich.procedure_call"));
        cluster.kill_backend(pid);
        assert!(running.join().expect("the thread ends").is_err());
        drop(holder);
        let mut db = wait_for_server(&cluster, &name);
        assert_counts_are_exact(&mut db, &TABLES);
    }
    assert!(
        phases.contains(&"sessions".to_owned()) && phases.contains(&"inventories".to_owned()),
        "{phases:?}"
    );
    let mut db = Database::reconnected(&cluster, &name);
    db.run("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE ip = ''"), 12_003);
    assert_counts_are_exact(&mut db, &TABLES);
}

/// Waits until a server that restarts after a kill accepts connections.
fn wait_for_server(cluster: &server_tests::Cluster, name: &str) -> Session {
    wait_until("the server is back", || cluster.try_session(name).is_ok(), |is_back| *is_back);
    cluster.session(name)
}

/// An address that a trigger of the owner puts back is not erased, and the calls say so.
#[test]
fn a_trigger_that_puts_the_address_back_makes_the_erasure_fail() {
    let mut db = database();
    stored(&mut db);
    db.run(
        "CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN new.source_ip := coalesce(new.source_ip, old.source_ip); RETURN new; END $f$;
         CREATE TRIGGER a_put_back BEFORE UPDATE ON session_summaries
             FOR EACH ROW EXECUTE FUNCTION put_back()",
    );
    for call in ["CALL erase_address('8.8.8.8')", "CALL expire_addresses('1 day', 'session_summaries')"] {
        let refusal = db.refused(call);
        assert!(refusal.message.contains("session_summaries"), "{call}: {refusal:?}");
    }
    assert_ne!(db.number("SELECT count(*) FROM session_summaries WHERE source_ip = '8.8.8.8'"), 0);
    assert_counts_are_exact(&mut db, &TABLES);
    db.run("DROP TRIGGER a_put_back ON session_summaries");
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}

#[test]
fn a_trigger_that_puts_a_document_back_makes_the_erasure_fail() {
    let mut db = database();
    stored(&mut db);
    spread(&mut db, V4, V4);
    db.run(
        "CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN new.enrichment := old.enrichment; RETURN new; END $f$;
         CREATE TRIGGER zzz_put_back BEFORE UPDATE ON session_summaries
             FOR EACH ROW WHEN (old.session_id = 't') EXECUTE FUNCTION put_back()",
    );
    let refusal = db.refused("CALL erase_address('8.8.8.8')");
    assert!(refusal.message.contains("session_summaries"), "{refusal:?}");
    db.run("DROP TRIGGER zzz_put_back ON session_summaries");
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}

#[test]
fn owners_of_all_session_tables_can_erase_and_others_cannot() {
    let mut db = database();
    stored(&mut db);
    let owner = db.create_role("owner");
    db.run(&grants("docs/security.md", "honeypot_tables", &owner));
    db.run(&format!("ALTER TABLE sessions OWNER TO {owner}"));
    let mut session = db.session_as(&owner);
    let refusal = session.refused("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(refusal.code, "42501");
    assert!(refusal.message.contains("session_summaries"), "{refusal:?}");
    assert!(refusal.hint.is_some());
    assert_eq!(session.refused("CALL enrich.expire_addresses('1 day')").code, "42501");
    assert_eq!(session.refused("CALL enrich.expire_addresses('1 day', 'session_summaries')").code, "42501");
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE ip = ''"), 0);
    // A refused call, or a call with a wrong argument, is no failed erasure, and hides no earlier call.
    db.refused("CALL expire_addresses('0')");
    db.refused("CALL erase_address('8.8.8.0/24')");
    assert_eq!(db.one(STATUS), "0|f|f");
    assert_eq!(db.number("SELECT count(*) FROM procedure_call WHERE procedure ~ 'erase|expire'"), 0);

    db.run(&format!("ALTER TABLE session_summaries OWNER TO {owner}"));
    session.run("CALL enrich.erase_address('8.8.8.8')");
    assert_eq!(mentions(&db, V4), [""; 0]);
    session.run("CALL enrich.expire_addresses('1 day')");
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
    assert_counts_are_exact(&mut db, &TABLES);
    let stranger = db.create_role("stranger");
    db.run(&format!("GRANT USAGE ON SCHEMA enrich TO {stranger}"));
    assert_eq!(db.session_as(&stranger).refused("CALL enrich.erase_address('8.8.8.8')").code, "42501");
}

#[test]
fn failed_calls_show_until_they_are_repeated() {
    let options = Options::named("erasure_status").with_worker().conf("cowrie_enrich.worker_naptime = 100ms");
    let cluster = cluster_with_world(&options);
    let mut db = fresh_database(&cluster);
    stored(&mut db);
    assert_eq!(db.one(STATUS), "0|f|f");
    // A table cron.job of another owner is ignored.
    db.run(
        "CREATE SCHEMA cron; CREATE TABLE cron.job (active boolean, database text, command text);
         INSERT INTO cron.job VALUES (true, current_database(), 'CALL enrich.expire_addresses(''1 day'')')",
    );
    assert_eq!(db.one(STATUS), "0|f|f");
    db.run("ALTER TABLE sessions DISABLE TRIGGER ALL");
    db.refused("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "1|f|f");
    db.refused("CALL erase_address('8.8.8.8')");
    assert_eq!(db.one(STATUS), "2|f|f");
    let metrics = "SELECT string_agg(name || ' ' || (value > 0), ' ' ORDER BY name) FROM enrich.enrich_metrics
                   WHERE (name LIKE 'enrich_era%' OR name LIKE 'enrich_exp%') AND labels ->> 'database' = current_database()";
    let none = "enrich_erasures_failed false enrich_expiry_last_success_timestamp_seconds false enrich_expiry_scheduled false";
    let failed = none.replacen("false", "true", 1);
    wait_until("the metrics show the calls", || db.one(metrics), |shown| *shown == failed);
    db.run("ALTER TABLE sessions ENABLE TRIGGER ALL");

    // A running call does not count as failed.
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE session_summaries");
    let mut caller = db.another();
    let pid = caller.backend_pid();
    let running = std::thread::spawn(move || caller.try_run("CALL enrich.erase_address('8.8.8.8')"));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    wait_until("the call waits", || db.number(&waits), |waits| *waits == 1);
    assert_eq!(db.one(STATUS), "1|f|f");
    cluster.session(&db.name).run(&format!("SELECT pg_cancel_backend({pid})"));
    assert!(running.join().expect("no panic").is_err());
    assert_eq!(db.one(STATUS), "2|f|f", "a cancelled call has failed");
    holder.run("ROLLBACK");
    // The calls for other addresses do not hide the failed call, and no row has the address.
    db.run("CALL erase_address('8.8.8.9')");
    db.run("CALL erase_address('2001:4860:4860::8888')");
    assert_eq!(db.one(STATUS), "2|f|f");
    let unfinished =
        "SELECT count(*), bool_or(mentions_address(u::text, '{8.8.8.8}')) FROM unfinished_erasure u";
    assert_eq!(db.one(unfinished), "2|f");
    assert!(!std::fs::read_to_string(db.dump("plain")).expect("a dump").contains("erase_address"));
    db.run("CALL erase_address('8.8.8.8')");
    assert_eq!(db.one(STATUS), "1|f|f");
    // A call for a longer age does not repeat the failed call.
    db.run("CALL expire_addresses('2 days')");
    assert_eq!(db.one(STATUS), "1|t|f");

    // A call for one table does not count, because the scheduled job calls the procedure for all tables.
    db.run("CALL expire_addresses('1 day', 'sessions')");
    assert_eq!(db.one(STATUS), "1|t|f");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "0|t|f");
    let fine = none.replace("timestamp_seconds false", "timestamp_seconds true");
    wait_until("the metrics show the expiry", || db.one(metrics), |shown| *shown == fine);
    // The end of the last complete call stays known, and a table that is gone has no failed call.
    db.run("ALTER TABLE session_summaries DISABLE TRIGGER ALL");
    db.refused("CALL expire_addresses('1 day')");
    db.refused("CALL expire_addresses('1 day', 'session_summaries')");
    assert_eq!(db.one(STATUS), "2|t|f");
    db.run("DROP TABLE session_summaries");
    db.run("CALL expire_addresses('1 day')");
    assert_eq!(db.one(STATUS), "0|t|f");
}

#[test]
fn a_call_that_could_miss_a_session_is_refused_before_it_erases() {
    let mut db = database();
    stored(&mut db);
    for (call, code) in [
        ("erase_address(NULL)", "22004"),
        ("erase_address('8.8.8.0/24')", "22023"),
        ("erase_address('8.8.8.8', NULL)", "22004"),
        ("expire_addresses(NULL)", "22004"),
        ("expire_addresses('0')", "22023"),
        ("expire_addresses('-1 day')", "22023"),
        ("expire_addresses('300000 years')", "22023"),
        ("expire_addresses('1 day', 'pg_class')", "55000"),
    ] {
        assert_eq!(db.refused(&format!("CALL {call}")).code, code, "{call}");
    }
    assert_eq!(
        db.refused("DO $$BEGIN CALL enrich.erase_address('8.8.8.8'); COMMIT; END$$; SELECT 1").code,
        "25001"
    );
    let third = db.create_role("third");
    for (spoil, repair, code) in [
        ("ALTER TABLE sessions DISABLE TRIGGER ALL", "ALTER TABLE sessions ENABLE TRIGGER ALL", "55000"),
        ("ALTER TABLE sessions RENAME ip TO peer", "ALTER TABLE sessions RENAME peer TO ip", "55000"),
        (
            &format!(
                "CREATE FUNCTION third() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 ALTER FUNCTION third() OWNER TO {third};
                 CREATE TRIGGER t BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION third()"
            ),
            "DROP FUNCTION third() CASCADE",
            "55000",
        ),
        (
            "CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION stays()",
            "DROP FUNCTION stays() CASCADE",
            "55000",
        ),
        ("CREATE RULE r AS ON UPDATE TO sessions DO INSTEAD NOTHING", "DROP RULE r ON sessions", "0A000"),
    ] {
        db.run(spoil);
        let refusal = db.refused("CALL erase_address('8.8.8.8')");
        assert_eq!(refusal.code, code, "{spoil}: {refusal:?}");
        assert!(refusal.hint.is_some(), "{spoil}: {refusal:?}");
        db.run(repair);
        assert_eq!(db.number("SELECT count(*) FROM sessions s WHERE s.ip = ''"), 0, "{spoil}");
    }
    db.run("DELETE FROM session_summaries WHERE source_ip IS NULL; ALTER TABLE session_summaries ALTER source_ip SET NOT NULL");
    let refusal = db.refused("CALL erase_address('8.8.8.8')");
    assert_eq!(refusal.code, "23502");
    assert!(refusal.hint.is_some());
    db.run("CALL erase_address('8.8.8.8', delete_sessions => true)");
    assert_eq!(mentions(&db, V4), [""; 0]);
    assert_counts_are_exact(&mut db, &TABLES);
}
