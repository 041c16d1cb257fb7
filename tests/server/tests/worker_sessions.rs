//! The worker's writes to tables of users, and the limits for code of their owners.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{Behaviour, Fault, Routes, synthetic_asn, synthetic_country};
use server_tests::cymru::{
    Lab, assert_placed, assert_snapshots_are_complete, member, members, queue, state, wait_for_the_queue,
    worker_pid, worker_pid_now,
};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, wait_until};

fn lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker())
}

fn snapshot(address: IpAddr) -> String {
    let asn = synthetic_asn(address);
    format!("{asn}|{}|NULL", synthetic_country(asn))
}

fn insert(host: &Host, key: &str, address: IpAddr) -> String {
    host.insert(&[(key, Some(&address.to_string()))])
}

fn held(lab: &Lab) -> usize {
    lab.whois.record().connections.iter().filter(|c| c.end && c.is_open()).count()
}

/// Includes sessions in backoff.
fn wait_until_complete(db: &mut Session) {
    wait_until(
        "no session waits to be completed",
        || (db.number("SELECT count(*) FROM enrich.session_completion WHERE due_at IS NOT NULL"), state(db)),
        |(left, _)| *left == 0,
    );
}

fn wait_until_placed(db: &mut Session, address: IpAddr) {
    wait_until(
        "the address has its network",
        || {
            let row = db
                .rows(&format!("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '{address}'"));
            (row, state(db))
        },
        |(row, _)| row == &[synthetic_asn(address).to_string()],
    );
}

/// The answer is stored before the session is committed.
#[test]
fn a_session_that_commits_after_the_answer_was_written_is_completed() {
    let lab = lab("sessions-late");
    for host in [&COWRIE, &SUMMARIES] {
        for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
            let mut db = lab.database();
            host.create_attached(&mut db);
            lab.whois.behave(Fault::Held);
            let before = held(&lab);
            let address = member(0, 1);
            db.run(&insert(host, "first", address));
            wait_until(
                "the batch is under way",
                || (held(&lab), isolation, state(&mut db)),
                |(now, _, _)| *now > before,
            );
            let mut late = db.another();
            late.run(&format!("BEGIN ISOLATION LEVEL {isolation}; {}", insert(host, "late", address)));
            // Also stores a session of another address of the prefix. The answer about the prefix exists before
            // this address needs a lookup.
            late.run(&insert(host, "neighbour", member(0, 2)));
            lab.whois.behave(Behaviour::normal());
            wait_until_placed(&mut db, address);
            wait_for_the_queue(&mut db);
            assert_eq!(host.snapshot(&mut db, "first"), snapshot(address), "{isolation}");
            late.run("COMMIT");
            for (key, address) in [("late", address), ("neighbour", member(0, 2))] {
                wait_until(
                    "the session is complete",
                    || (host.snapshot(&mut db, key), state(&mut db)),
                    |(now, _)| *now == snapshot(address),
                );
            }
            wait_for_the_queue(&mut db);
            assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
            let asked: Vec<IpAddr> = lab.whois.record().questions().collect();
            assert_eq!(asked, [address], "one lookup for all of them");
            lab.whois.forget();
        }
    }
    lab.assert_nothing_crashed();
}

#[test]
fn a_session_that_somebody_holds_is_completed_when_they_let_go() {
    let lab = lab("sessions-locked");
    for host in [&COWRIE, &SUMMARIES] {
        for end in ["COMMIT", "ROLLBACK"] {
            let mut db = lab.database();
            host.create_attached(&mut db);
            lab.whois.behave(Fault::Held);
            let addresses = members(0..3);
            for (n, address) in addresses.iter().enumerate() {
                db.run(&insert(host, &format!("s{n}"), *address));
            }
            let mut holder = db.another();
            holder.run(&format!(
                "BEGIN; UPDATE {} SET {} = {} + interval '1 hour' WHERE {} = 's1'",
                host.table, host.time, host.time, host.key
            ));
            lab.whois.behave(Behaviour::normal());
            wait_until_placed(&mut db, addresses[1]);
            for n in [0, 2] {
                wait_until(
                    "the others do not wait",
                    || host.snapshot(&mut db, &format!("s{n}")),
                    |now| *now == snapshot(addresses[n]),
                );
            }
            assert_eq!(host.snapshot(&mut db, "s1"), "NULL|NULL|NULL");
            assert_eq!(
                db.number(
                    "SELECT count(*) FROM pg_stat_activity
                     WHERE backend_type = 'cowrie_enrich worker' AND wait_event_type = 'Lock'"
                ),
                0,
                "the worker waits for no lock"
            );
            holder.run(end);
            wait_for_the_queue(&mut db);
            wait_until(
                "the session is complete",
                || (host.snapshot(&mut db, "s1"), end, state(&mut db)),
                |(now, ..)| *now == snapshot(addresses[1]),
            );
            assert_placed(&mut db, &addresses);
            assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
            assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        }
    }
    lab.assert_nothing_crashed();
}

/// Creates a role that owns a session table and has no other privileges.
fn owner(db: &mut Database<'_>, host: &Host) -> String {
    let role = db.own_name("owner");
    db.run(&format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}"));
    host.create(db);
    db.run(&format!("ALTER TABLE {} OWNER TO {role}", host.table));
    host.attach(db);
    role
}

/// The three kinds of a row trigger on UPDATE: before, after, and after and deferred.
const KINDS: [(&str, &str, &str); 3] = [
    ("", "BEFORE UPDATE", ""),
    ("", "AFTER UPDATE", ""),
    ("CONSTRAINT", "AFTER UPDATE", "DEFERRABLE INITIALLY DEFERRED"),
];

/// Creates a trigger on Cowrie's table. If `always` is true, the trigger also fires with
/// `session_replication_role = replica`.
fn put_trigger(session: &mut Session, (timing, event, deferred): (&str, &str, &str), always: bool) {
    session.run(&format!(
        "CREATE {timing} TRIGGER theirs {event} ON sessions {deferred}
             FOR EACH ROW EXECUTE FUNCTION public.theirs()"
    ));
    if always {
        session.run("ALTER TABLE sessions ENABLE ALWAYS TRIGGER theirs");
    }
}

#[test]
fn a_table_whose_trigger_raises_keeps_neither_the_inventory_nor_other_tables_waiting() {
    let lab = lab("sessions-raising");
    for (kind, always) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut db = lab.database();
        owner(&mut db, &COWRIE);
        SUMMARIES.create_attached(&mut db);
        db.run(
            "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'no change here'; END $$",
        );
        put_trigger(&mut db, kind, always);
        let address = member(0, 1);
        lab.whois.behave(Fault::Held);
        db.run(&insert(&COWRIE, "a", address));
        db.run(&insert(&SUMMARIES, "b", address));
        lab.whois.behave(Behaviour::normal());
        wait_until_placed(&mut db, address);
        wait_until(
            "the other table is complete",
            || SUMMARIES.snapshot(&mut db, "b"),
            |now| *now == snapshot(address),
        );
        wait_for_the_queue(&mut db);
        assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL", "{kind:?}, always: {always}");
        assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
        assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 1);
    }
    lab.assert_nothing_crashed();
}

/// The owner of a table may put a trigger on it. It runs with the owner's rights only, at once or deferred.
#[test]
fn what_the_owner_put_on_the_table_runs_with_the_owners_rights() {
    let lab = lab("sessions-owner");
    for (kind, always) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut db = lab.database();
        let role = owner(&mut db, &COWRIE);
        let mut theirs = db.session_as(&role);
        theirs.run(&format!(
            "CREATE TABLE public.seen (who text, session text, role_set text, secrets text, inventory text);
             CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 role_set text := 'refused';
                 secrets text := 'refused';
                 inventory text := 'refused';
             BEGIN
                 BEGIN
                     SET ROLE postgres; role_set := current_user;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     RESET SESSION AUTHORIZATION; role_set := 'reset ' || current_user;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     PERFORM rolpassword FROM pg_authid; secrets := 'read';
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     PERFORM current_asn FROM enrich.ip_inventory; inventory := 'read';
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     EXECUTE 'ALTER ROLE {role} SUPERUSER'; secrets := 'superuser';
                 EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO public.seen VALUES (current_user, session_user, role_set, secrets, inventory);
                 RETURN NEW;
             END $$;"
        ));
        put_trigger(&mut theirs, kind, always);
        let address = member(0, 1);
        db.run(&insert(&COWRIE, "a", address));
        wait_until_placed(&mut db, address);
        wait_for_the_queue(&mut db);
        let seen = db.rows("SELECT who, role_set, secrets, inventory FROM public.seen");
        // Deferred triggers are forced, so they fire with the statement, in the restricted operation.
        assert_eq!(seen, [format!("{role}|refused|refused|refused")], "{kind:?}, always: {always}");
        assert_eq!(COWRIE.snapshot(&mut db, "a"), snapshot(address), "{kind:?}, always: {always}");
        assert_eq!(db.one(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")), "f");
    }
    lab.assert_nothing_crashed();
}

/// Code that the statement itself evaluates, without a trigger.
#[test]
fn policies_and_index_expressions_of_the_owner_run_with_the_owners_rights() {
    let lab = lab("sessions-policies");
    let mut db = lab.database();
    let role = owner(&mut db, &SUMMARIES);
    let mut theirs = db.session_as(&role);
    theirs.run(
        "CREATE TABLE public.seen (who text);
         CREATE FUNCTION public.peep(anything text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END $$;
         ALTER TABLE session_summaries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY peeping ON session_summaries USING (public.peep(session_id)) WITH CHECK (public.peep(session_id));
         ALTER TABLE session_summaries ADD CONSTRAINT peeped CHECK (public.peep(session_id))",
    );
    let address = member(0, 1);
    db.run(&insert(&SUMMARIES, "a", address));
    // Rows from the superuser's own insert.
    db.run("DELETE FROM public.seen");
    wait_until(
        "the session is complete, or the log says why not",
        || (SUMMARIES.snapshot(&mut db, "a"), lab.cluster.log()),
        |(now, log)| {
            *now == snapshot(address)
                || log.contains("could not fill the snapshot columns of a session table")
        },
    );
    assert_eq!(SUMMARIES.snapshot(&mut db, "a"), snapshot(address), "{}", lab.cluster.log());
    wait_for_the_queue(&mut db);
    let who = db.rows("SELECT DISTINCT who FROM public.seen");
    assert!(who.is_empty() || who == [role.clone()], "{who:?}");
    lab.assert_nothing_crashed();
}

#[test]
fn settings_of_the_database_do_not_change_how_the_worker_works() {
    let lab = lab("sessions-settings");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let name = db.name.clone();
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        "session_replication_role = 'replica'",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "idle_session_timeout = '1s'",
        "search_path = 'nowhere'",
        "role = 'pg_read_all_data'",
        "row_security = off",
        "DateStyle = 'SQL, DMY'",
        "timezone = 'Asia/Kathmandu'",
        "IntervalStyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -10",
        "enable_indexscan = off",
        "client_min_messages = 'debug5'",
        "transform_null_equals = on",
        "check_function_bodies = off",
        "xmloption = 'document'",
        "default_table_access_method = 'heap'",
        "standard_conforming_strings = off",
    ] {
        db.run(&format!("ALTER DATABASE \"{name}\" SET {setting}"));
    }
    db.run("ALTER ROLE postgres SET default_transaction_read_only = on");
    // Some settings take effect when the next worker starts.
    db.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type LIKE 'cowrie%'"));
    let addresses = members(0..5);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&insert(&COWRIE, &format!("s{n}"), *address));
    }
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    for (n, address) in addresses.iter().enumerate() {
        assert_eq!(COWRIE.snapshot(&mut db, &format!("s{n}")), snapshot(*address));
    }
    assert_eq!(db.number("SELECT count(*) FROM enrich.network_delta WHERE addresses <> 0"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    let errors = db.number(
        "SELECT coalesce(sum(errors), 0) FROM enrich.worker_status() WHERE database = current_database()",
    );
    assert_eq!(errors, 0, "{}", lab.cluster.log());
    lab.assert_nothing_crashed();
}

#[test]
fn worker_role_works_with_its_grants_and_one_that_does_not_exist_loses_nothing() {
    let lab = lab("sessions-role");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    db.run(
        "CREATE ROLE enricher;
         GRANT USAGE ON SCHEMA enrich TO enricher;
         GRANT ALL ON ALL TABLES IN SCHEMA enrich TO enricher;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO enricher",
    );
    db.run(
        "CREATE TABLE public.writers (who text);
         GRANT INSERT ON public.writers TO PUBLIC;
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.writers VALUES (current_user); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON enrich.ip_asn_history EXECUTE FUNCTION public.note()",
    );
    lab.reconfigure(&["worker_role = 'enricher'"]);
    db.run(&insert(&COWRIE, "a", member(0, 1)));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &[member(0, 1)]);
    let writers = "SELECT DISTINCT who FROM public.writers
                   WHERE who <> (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'enrich.ip_inventory'::regclass)";
    assert_eq!(db.rows(writers), ["enricher"]);
    assert_eq!(COWRIE.snapshot(&mut db, "a"), snapshot(member(0, 1)));

    lab.reconfigure(&["worker_role = 'nobody_of_that_name'"]);
    let pid = worker_pid(&mut db);
    db.run(&insert(&COWRIE, "b", member(1, 1)));
    wait_until(
        "the log says why nothing happens",
        || lab.cluster.log(),
        |log| log.contains("role \"nobody_of_that_name\" does not exist"),
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_request"), 1);
    lab.reconfigure(&["worker_role = ''"]);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &[member(0, 1), member(1, 1)]);
    assert_eq!(worker_pid(&mut db), pid);
    // With a role that may not write, each step fails with an error, and nothing is lost.
    db.run("CREATE ROLE powerless");
    let errors =
        "SELECT errors FROM enrich.worker_status WHERE role = 'worker' AND database = current_database()";
    let before = db.number(errors);
    lab.reconfigure(&["worker_role = 'powerless'"]);
    db.run(&insert(&COWRIE, "c", member(2, 1)));
    // The log may have no line for it, because it belongs to the same series of failures.
    wait_until("a step has failed", || db.number(errors), |errors| *errors > before);
    lab.reconfigure(&["worker_role = ''"]);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &[member(0, 1), member(1, 1), member(2, 1)]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    lab.assert_nothing_crashed();
}

/// Tables are created, dropped, renamed, partitioned, or lose a column. The inventory is still written.
#[test]
fn a_table_that_changed_does_not_stop_the_worker() {
    let lab = lab("sessions-changed");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE TABLE public.parts (id int, source_ip inet, at timestamptz) PARTITION BY HASH (id);
         CREATE TABLE public.part0 PARTITION OF public.parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE public.part1 PARTITION OF public.parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         SELECT enrich.attach_session_table('public.parts', 'source_ip', 'at')",
    );
    lab.whois.behave(Fault::Held);
    let addresses = members(0..20);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&insert(&COWRIE, &format!("c{n}"), *address));
        db.run(&insert(&SUMMARIES, &format!("s{n}"), *address));
        db.run(&format!("INSERT INTO public.parts VALUES ({n}, '{address}', now())"));
    }
    wait_until("a batch is under way", || held(&lab), |n| *n > 0);
    db.run("ALTER TABLE sessions RENAME COLUMN ip TO address; ALTER TABLE sessions RENAME TO sitzungen");
    db.run("ALTER TABLE session_summaries DROP COLUMN enrichment_at");
    lab.whois.behave(Behaviour::normal());
    for address in &addresses {
        wait_until_placed(&mut db, *address);
    }
    assert_placed(&mut db, &addresses);
    wait_until(
        "the partitions are complete",
        || db.number("SELECT count(*) FROM public.parts WHERE snapshot_asn IS NULL"),
        |n| *n == 0,
    );
    lab.assert_nothing_crashed();
}

/// Writers of sessions and the worker use the same rows without a deadlock.
#[test]
fn sessions_arrive_and_change_while_answers_are_written() {
    let lab = Lab::start(
        Options::named("sessions-race")
            .with_worker()
            .conf("cowrie_enrich.cymru_batch_size = 25")
            .conf("cowrie_enrich.cymru_max_connections = 4")
            .conf("deadlock_timeout = 100ms"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let handle = db.handle();
    std::thread::scope(|scope| {
        for client in 0..4usize {
            let handle = &handle;
            scope.spawn(move || {
                let mut session = handle.session();
                let host = if client % 2 == 0 { &COWRIE } else { &SUMMARIES };
                for round in 0..60usize {
                    // Every second prefix is new, and all clients use it.
                    let at = |n: usize| member(round * 5 + n, (client + 1) as u8);
                    let key = |n: usize| format!("{client}-{round}-{n}");
                    let rows: Vec<(String, String)> = (0..5).map(|n| (key(n), at(n).to_string())).collect();
                    let rows: Vec<(&str, Option<&str>)> =
                        rows.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
                    session.run(&format!(
                        "BEGIN; {}; UPDATE {t} SET {time} = {time} + interval '1 s' WHERE {k} IN ('{}', '{}'); COMMIT",
                        host.insert(&rows),
                        key(4),
                        key(0),
                        t = host.table,
                        time = host.time,
                        k = host.key,
                    ));
                    session.run(&format!("DELETE FROM {} WHERE {} = '{}'", host.table, host.key, key(3)));
                }
            });
        }
    });
    wait_for_the_queue(&mut db);
    assert_snapshots_are_complete(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    assert_eq!(db.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"), 0);
    assert_eq!(db.number("SELECT errors FROM enrich.enrich_stats()"), 0, "{}", lab.cluster.log());
    assert_eq!(lab.whois.record().questions_total(), 300);
    lab.assert_nothing_crashed();
}

/// The owner of an attached table may be a superuser. Other roles can have the TRIGGER privilege.
#[test]
fn whoever_may_only_put_triggers_on_a_superusers_table_does_not_become_one() {
    let lab = lab("sessions-trigger");
    for (n, (timing, event, deferred)) in KINDS.into_iter().enumerate() {
        let mut db = lab.database();
        COWRIE.create_attached(&mut db);
        let role = format!("intruder_{n}");
        db.run(&format!("CREATE ROLE {role} LOGIN; GRANT INSERT, TRIGGER ON sessions TO {role}"));
        // The role's temporary function exists as long as the connection `theirs` is open.
        let mut theirs = db.session_as(&role);
        theirs.run(&format!(
            "CREATE FUNCTION pg_temp.rise() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF current_user <> '{role}' THEN
                     EXECUTE 'ALTER ROLE {role} SUPERUSER';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE {timing} TRIGGER theirs {event} ON sessions {deferred}
                 FOR EACH ROW EXECUTE FUNCTION pg_temp.rise()"
        ));
        assert_eq!(theirs.refused("ALTER TABLE sessions ENABLE ALWAYS TRIGGER theirs").code, "42501");
        let address = member(0, 1);
        theirs.run(&insert(&COWRIE, "a", address));
        wait_until_placed(&mut db, address);
        wait_for_the_queue(&mut db);
        assert_eq!(COWRIE.snapshot(&mut db, "a"), "NULL|NULL|NULL", "{timing} {event} {deferred}");
        let reason = db.one("SELECT blocked_reason FROM enrich.attached_tables");
        assert!(reason.contains("trigger theirs") && reason.contains(&role), "{reason}");
        let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'");
        assert_eq!(db.one(&is_superuser), "f", "{timing} {event} {deferred}");
        // The trap works: it runs in an update by the superuser.
        db.run("BEGIN; UPDATE sessions SET sensor = 2; SET CONSTRAINTS ALL IMMEDIATE");
        assert_eq!(db.one(&is_superuser), "t", "{timing} {event} {deferred}");
        db.run("ROLLBACK");
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    }
    lab.assert_nothing_crashed();
}

/// More sessions than one transaction writes, and all of them are locked.
#[test]
fn six_thousand_sessions_that_are_locked_keep_the_worker_neither_busy_nor_from_other_work() {
    let lab = Lab::start(Options::named("sessions-six-thousand"));
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let addresses: Vec<IpAddr> = (0..6_000).map(|n| member(n % 300, (n / 300 + 1) as u8)).collect();
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let keys: Vec<String> = (0..texts.len()).map(|n| format!("s{n}")).collect();
    let rows: Vec<(&str, Option<&str>)> =
        keys.iter().zip(&texts).map(|(key, text)| (key.as_str(), Some(text.as_str()))).collect();
    db.run(&COWRIE.insert(&rows));
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE sessions IN SHARE MODE");
    lab.reconfigure(&["worker_enabled = on"]);

    // Waits for some attempts, which take seven seconds because the pauses grow. Without pauses, the worker would
    // have made hundreds of attempts by then.
    let completions =
        |db: &mut Session| db.number("SELECT COALESCE(min(attempts), 0) FROM enrich.session_completion");
    let written = |db: &mut Session| db.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint");
    let batches = |db: &mut Session| {
        db.number("SELECT batches FROM enrich.worker_status() WHERE role = 'worker' AND database = current_database()")
    };
    let until = |db: &mut Session, times: i64| {
        wait_until("the sessions were tried", || (completions(db), state(db)), |(now, _)| *now >= times);
    };
    until(&mut db, 2);
    let before = (batches(&mut db), written(&mut db));
    until(&mut db, 3);
    let after = (batches(&mut db), written(&mut db));
    assert!(after.0 <= 20, "{} batches for three attempts\n{}", after.0, state(&mut db));
    assert!(after.1 - before.1 < 8_000_000, "{} bytes of WAL for one attempt", after.1 - before.1);
    assert_eq!(lab.whois.record().questions_total(), 300, "each block is asked about once");

    let new = member(1_000, 1);
    db.run(&insert(&SUMMARIES, "new", new));
    wait_until(
        "another table's session is complete",
        || (SUMMARIES.snapshot(&mut db, "new"), state(&mut db)),
        |(now, _)| *now == snapshot(new),
    );
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NOT NULL"), 0);
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NULL"),
        0,
        "the inventory does not wait for sessions"
    );

    // The worker has disconnected, so only the connection that holds the lock prevents the rename.
    let name = db.name.clone();
    drop(db);
    let mut admin = lab.cluster.session_with("postgres", "postgres", "public");
    let rename = format!("ALTER DATABASE \"{name}\" RENAME TO sessions_renamed");
    let refusal = wait_until(
        "one session only is left",
        || admin.refused(&rename),
        |refusal| refusal.detail.as_deref() == Some("There is 1 other session using the database."),
    );
    assert_eq!(refusal.code, "55006");
    // After the lock is released, the rename succeeds, and the worker completes the sessions.
    drop(holder);
    let started = Instant::now();
    admin.run(&rename);
    assert!(started.elapsed() < Duration::from_secs(3), "the rename took {:?}", started.elapsed());

    let mut db = lab.cluster.session("sessions_renamed");
    wait_for_the_queue(&mut db);
    wait_until_complete(&mut db);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM sessions s JOIN enrich.ip_inventory i ON i.ip_address = s.ip::inet
             WHERE s.snapshot_asn IS NOT DISTINCT FROM i.current_asn"
        ),
        6_000
    );
    let mut all = addresses;
    all.push(new);
    assert_placed(&mut db, &all);
    assert_eq!(lab.whois.record().questions_total(), 301);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    lab.assert_nothing_crashed();
}

/// There are more sessions than one transaction completes, and the trigger undoes every change.
#[test]
fn an_owners_trigger_that_undoes_what_is_completed_does_not_keep_the_worker_busy() {
    let lab = lab("sessions-undone");
    for (kind, body) in [
        ("BEFORE", "BEGIN RETURN OLD; END"),
        ("BEFORE", "BEGIN RETURN NULL; END"),
        ("BEFORE", "BEGIN NEW.snapshot_asn := NULL; RETURN NEW; END"),
        // This trigger always sets one of the known values to null.
        (
            "BEFORE",
            "BEGIN
                 IF OLD.snapshot_asn IS NULL THEN NEW.snapshot_country := NULL; ELSE NEW.snapshot_asn := NULL; END IF;
                 RETURN NEW;
             END",
        ),
    ] {
        eprintln!("{kind}: {body}");
        let mut db = lab.database();
        COWRIE.create_attached(&mut db);
        db.run(&format!(
            "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $body${body}$body$;
             CREATE TRIGGER zzz_theirs {kind} UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION public.theirs()"
        ));
        let address = member(0, 1);
        let insert = format!(
            "INSERT INTO sessions (id, starttime, ip) SELECT n, now(), '{address}' FROM generate_series(1, 2500) n"
        );
        db.run(&insert);
        let completions = "SELECT COALESCE(max(attempts), 0) FROM enrich.session_completion";
        wait_until(
            "they are tried again after pauses",
            || (db.number(completions), state(&mut db)),
            |(now, _)| *now >= 2,
        );
        let batches = "SELECT batches FROM enrich.worker_status() WHERE role = 'worker' AND database = current_database()";
        let made = db.number(batches);
        assert!(made <= 10, "{made} transactions for two attempts");
        assert_eq!(
            db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NOT NULL AND snapshot_country IS NOT NULL"),
            0
        );
        // Other work continues, and the sessions are completed after the trigger is dropped.
        let other = member(1_000, 1);
        SUMMARIES.create_attached(&mut db);
        db.run(&self::insert(&SUMMARIES, "other", other));
        wait_until_placed(&mut db, other);
        db.run("DROP TRIGGER zzz_theirs ON sessions");
        wait_for_the_queue(&mut db);
        wait_until_complete(&mut db);
        assert_snapshots_are_complete(&mut db);
    }
    lab.assert_nothing_crashed();
}

#[test]
fn an_owners_trigger_that_sleeps_holds_up_neither_other_tables_nor_drop_extension() {
    let lab = lab("sessions-asleep");
    let mut db = lab.database();
    owner(&mut db, &COWRIE);
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$",
    );
    put_trigger(&mut db, KINDS[0], true);
    let mut oldest = 0.0f64;
    for block in 0..5 {
        let address = member(block, 1);
        let key = format!("s{block}");
        let rows = [insert(&COWRIE, &key, address), insert(&SUMMARIES, &key, address)];
        db.run(&rows.join(";"));
        wait_until(
            "the other table's session is complete",
            || {
                let age = db.one(
                    "SELECT COALESCE(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
                     FROM pg_stat_activity
                     WHERE datname = current_database() AND backend_type = 'cowrie_enrich worker'",
                );
                oldest = oldest.max(age.parse().expect("seconds"));
                (SUMMARIES.snapshot(&mut db, &key), state(&mut db))
            },
            |(now, _)| *now == snapshot(address),
        );
    }
    assert!(oldest < 2.0, "a transaction of the worker's was open for {oldest} s");
    wait_for_the_queue(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn IS NOT NULL"), 0);
    assert_placed(&mut db, &(0..5).map(|block| member(block, 1)).collect::<Vec<_>>());

    db.run(&insert(&COWRIE, "last", member(5, 1)));
    wait_until(
        "the trigger sleeps",
        || {
            db.number(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'cowrie_enrich owner process' AND wait_event = 'PgSleep'",
            )
        },
        |asleep| *asleep == 1,
    );
    let started = Instant::now();
    db.run("SET client_min_messages = warning; DROP EXTENSION cowrie_enrich CASCADE");
    assert!(started.elapsed() < Duration::from_secs(2), "DROP EXTENSION took {:?}", started.elapsed());
    lab.assert_nothing_crashed();
}

/// The process began as the bootstrap superuser. A trigger that fires at commit must not run as that role.
#[test]
fn deferred_triggers_on_the_inventory_never_run_as_whom_the_worker_began_as() {
    let mut routes = Routes::empty();
    routes.add("60.0.0.0/24", 64_496, "DE", "ripencc", "2020-01-01", "EXAMPLE, DE");
    let lab = Lab::with_routes(Options::named("sessions-deferred").with_worker(), routes);
    let mut db = lab.database();
    db.run(
        "CREATE ROLE enricher LOGIN;
         GRANT USAGE ON SCHEMA enrich TO enricher;
         GRANT CREATE ON SCHEMA public TO enricher;
         GRANT ALL ON ALL TABLES IN SCHEMA enrich TO enricher;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO enricher",
    );
    lab.reconfigure(&["worker_role = 'enricher'", "max_attempts = 1"]);
    db.session_as("enricher").run(
        "CREATE TABLE public.ran_as (who text, ip inet, what text);
         GRANT INSERT ON public.ran_as TO PUBLIC;
         CREATE FUNCTION public.ran_as() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran_as VALUES (current_user, NEW.ip_address, TG_OP); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER ran_as AFTER INSERT OR UPDATE ON enrich.ip_inventory
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.ran_as()",
    );
    let (placed, absent, dead) = (member(0, 7), member(1, 7), member(2, 7));
    for address in [placed, absent, dead] {
        if address == dead {
            lab.whois.behave(Fault::Missing { every: 1 });
        }
        // A fold writes the row as well.
        db.run(&format!("INSERT INTO enrich.session_delta VALUES ('{address}', 1, now(), now())"));
        queue(&mut db, &[address]);
        wait_for_the_queue(&mut db);
        let counted = format!("SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '{address}'");
        wait_until("the session is counted", || db.rows(&counted), |row| row == &["1"]);
    }
    // A failure is recorded only in an existing row of `ip_inventory`. So the lookup is repeated after the fold has
    // created the row.
    queue(&mut db, &[dead]);
    wait_for_the_queue(&mut db);
    assert_eq!(
        db.rows("SELECT enrichment #>> '{_meta,cymru,state}' FROM enrich.ip_inventory ORDER BY ip_address"),
        ["value", "absent", "failed"]
    );
    assert_eq!(db.rows("SELECT DISTINCT who FROM public.ran_as"), ["enricher"]);
    assert_eq!(db.number("SELECT count(DISTINCT ip) FROM public.ran_as"), 3);
    lab.assert_nothing_crashed();
}

#[test]
fn a_strangers_advisory_locks_do_not_keep_sessions_from_being_counted() {
    let lab = lab("sessions-advisory");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run("CREATE ROLE stranger LOGIN");
    let mut stranger = db.session_as("stranger");
    // Takes locks with every key that can be built from OIDs of the extension in the catalogs.
    stranger.run(
        "SELECT pg_advisory_lock(k.a), pg_advisory_lock(k.a << 32), pg_advisory_lock(k.b << 32 | k.a),
                pg_advisory_lock(k.a << 32 | k.b), pg_advisory_lock(k.a::int, k.b::int),
                pg_advisory_lock(k.b::int, k.a::int)
         FROM (SELECT a.oid::bigint AS a, b.oid::bigint AS b
               FROM (SELECT oid FROM pg_class WHERE relname ~ 'delta|inventory|enrichment'
                     UNION ALL SELECT oid FROM pg_namespace WHERE nspname = 'enrich'
                     UNION ALL SELECT oid FROM pg_extension WHERE extname = 'cowrie_enrich') a,
                    (SELECT oid FROM pg_database WHERE datname = current_database()
                     UNION ALL SELECT 'pg_class'::regclass UNION ALL SELECT 'pg_extension'::regclass
                     UNION ALL SELECT 0) b) k",
    );
    let count = "SELECT COALESCE(sum(session_count), 0) FROM enrich.ip_inventory";
    db.run(&insert(&SUMMARIES, "a", "8.8.8.8".parse().expect("an address")));
    wait_until("the worker counts the session", || (db.number(count), state(&mut db)), |(n, _)| *n == 1);

    lab.reconfigure(&["worker_enabled = off"]);
    wait_until("nobody works", || worker_pid_now(&mut db), Option::is_none);
    db.run(&insert(&SUMMARIES, "b", "8.8.8.8".parse().expect("an address")));
    db.run("SET statement_timeout = '10s'");
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(db.number(count), 2);
    assert!(
        stranger.number("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") > 40,
        "they were held all the time"
    );
    lab.assert_nothing_crashed();
}

/// Names of tables and networks come from outside, and the database may have another encoding than the library.
#[test]
fn sessions_of_a_latin1_database_are_completed() {
    let mut routes = Routes::synthetic();
    routes.add("60.0.0.0/24", 64_496, "DE", "ripencc", "2020-01-01", "ÖRTLICHE NETZE, DE");
    routes.add("61.0.0.0/24", 64_497, "JP", "apnic", "2020-01-01", "株式会社, JP");
    let lab = Lab::with_routes(Options::named("sessions-latin1").with_worker(), routes);
    lab.cluster
        .session("postgres")
        .run("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let mut db = lab.cluster.session("latin1");
    db.run(
        "CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich;
         CREATE SCHEMA été; CREATE TABLE été.séances (id int PRIMARY KEY, adressé inet, à timestamptz);
         SELECT enrich.attach_session_table('été.séances', 'adressé', 'à')",
    );
    for block in 0..3 {
        db.run(&format!("INSERT INTO été.séances VALUES ({block}, '{}', now())", member(block, 7)));
    }
    let third = member(2, 7);
    let expected = ["64496|DE".to_owned(), "64497|JP".to_owned(), {
        let asn = synthetic_asn(third);
        format!("{asn}|{}", synthetic_country(asn))
    }];
    wait_until(
        "the sessions are complete",
        || {
            let rows = db.rows("SELECT snapshot_asn, snapshot_country FROM été.séances ORDER BY id");
            (rows, state(&mut db), lab.cluster.log())
        },
        |(rows, _, _)| *rows == expected,
    );
    wait_for_the_queue(&mut db);
    // Characters that LATIN1 lacks become question marks. No session is lost.
    assert_eq!(
        db.rows(
            "SELECT organization_name FROM enrich.asn_inventory WHERE asn_number < 65000 ORDER BY asn_number"
        ),
        ["ÖRTLICHE NETZE", "????"]
    );
    assert_counts_are_exact(&mut db, &[("été.séances", "adressé")]);
    lab.assert_nothing_crashed();
}

/// Rows that no answer can make due are removed by the sweep that every worker begins with.
#[test]
fn rows_of_dropped_tables_and_of_addresses_without_sessions_do_not_stay() {
    let lab = lab("sessions-forgotten");
    let mut db = lab.database();
    db.run(
        "CREATE TABLE gone (ip inet); SELECT enrich.attach_session_table('gone', 'ip');
         CREATE TABLE kept (ip inet); SELECT enrich.attach_session_table('kept', 'ip')",
    );
    let pid = worker_pid(&mut db);
    db.run(
        "INSERT INTO enrich.session_completion (ip_address, rel) VALUES ('60.0.0.1', 'gone'), ('60.0.0.2', 'kept');
         DROP TABLE gone",
    );
    db.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until(
        "both rows are gone",
        || db.number("SELECT count(*) FROM enrich.session_completion"),
        |rows| *rows == 0,
    );
    lab.assert_nothing_crashed();
}

/// Team Cymru is not asked about an address whose network is known, so nothing is awaited.
#[test]
fn a_session_without_a_country_waits_for_a_provider_that_is_asked() {
    let lab = lab("sessions-country");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    worker_pid(&mut db);
    lab.cluster.reconfigure(&["cowrie_enrich.city_database = ''".to_owned()]);
    wait_until(
        "no file knows countries",
        || db.one("SELECT enrich.ip_asn('8.8.8.8'), enrich.ip_country('8.8.8.8')"),
        |answer| answer == "15169|NULL",
    );
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    wait_for_the_queue(&mut db);
    assert_eq!(db.one("SELECT snapshot_asn, snapshot_country FROM sessions"), "15169|NULL");
    assert_eq!(
        db.number(
            "SELECT (SELECT count(*) FROM enrich.incomplete_session) + (SELECT count(*) FROM enrich.session_completion)"
        ),
        0
    );
}
