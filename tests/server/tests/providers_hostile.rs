//! Attacks on the worker. Owners of session tables set rules that are more than an expression, or whose code tries to
//! run as another role or does not end. Providers send invalid answers, and clocks are wrong.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    CannedAnswer, HttpBehaviour, HttpFault, HttpRequest, synthetic_dshield_attacks, synthetic_ip_type,
};
use server_tests::clock::Clock;
use server_tests::cymru::{member, members, state, wait_for_the_queue, worker_pid, worker_pid_now};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::http::{
    Lab, Plan, asked, count, document, documents, held, members_like, request, status, wait_for_status,
    wait_until_held,
};
use server_tests::{Database, Session, wait_until};

/// One request at a time, so that requests arrive in the order in which they were sent. Only the worker's rules write
/// to sessions.
fn plan(name: &str) -> Plan {
    Plan::of(name, "maxmind,greynoise")
        .with("greynoise_max_parallel = 1")
        .with("greynoise_daily_quota = 100000")
}

/// "Some seconds", plus a margin for a busy machine.
const SOME_SECONDS: Duration = Duration::from_secs(20);

/// Includes sessions in backoff.
fn wait_until_complete(db: &mut Session) {
    wait_until(
        "no session waits to be completed",
        || (db.number("SELECT count(*) FROM enrich.session_completion WHERE due_at IS NOT NULL"), state(db)),
        |(left, _)| *left == 0,
    );
}

/// Creates a role without privileges, with a schema. The name is unique on the server.
fn nobody(db: &mut Database<'_>, role: &str) -> Session {
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA {role} AUTHORIZATION {role}; GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO {role}"
    ));
    db.cluster.session_with(&db.name, role, role)
}

/// Creates a role that owns a session table, `<role>.session_summaries`, and has no other privileges.
fn owner(db: &mut Database<'_>, role: &str) -> Session {
    let mut session = nobody(db, role);
    SUMMARIES.create(&mut session);
    attach(db, &format!("{role}.session_summaries"));
    session
}

fn attach(db: &mut Session, table: &str) {
    db.run(&format!("SELECT enrich.attach_session_table('{table}', 'source_ip', 'first_event_at')"));
}

fn rule(session: &mut Session, table: &str, expression: &str) {
    session.run(&format!("SELECT enrich.set_session_priority('{table}', $rule${expression}$rule$)"));
}

/// Inserts sessions in one transaction, each with its number of commands.
fn insert_with_commands(session: &mut Session, table: &str, sessions: &[(IpAddr, i64)]) {
    let rows: Vec<String> = sessions
        .iter()
        .enumerate()
        .map(|(n, (address, commands))| format!("('{address} {n}', '{address}', '2024-05-01', {commands})"))
        .collect();
    session.run(&format!(
        "INSERT INTO {table} (session_id, source_ip, first_event_at, command_count) VALUES {}",
        rows.join(", ")
    ));
}

/// Returns addresses whose priorities are in another order than their numbers.
fn shuffled(blocks: std::ops::Range<usize>) -> Vec<(IpAddr, i64)> {
    let number = blocks.len();
    members(blocks)
        .into_iter()
        .enumerate()
        .map(|(n, address)| (address, (n * 7 % number) as i64 + 1))
        .collect()
}

fn by_rank(mut ranked: Vec<(IpAddr, i64)>) -> Vec<IpAddr> {
    ranked.sort_by_key(|(_, rank)| std::cmp::Reverse(*rank));
    ranked.into_iter().map(|(address, _)| address).collect()
}

#[track_caller]
fn wait_for_log(lab: &Lab, text: &str) {
    wait_until("the log says it", || lab.cluster.log(), |_| lab.cluster.whole_log().contains(text));
}

/// Waits until this number of GreyNoise's answers is stored.
#[track_caller]
fn wait_for_answers(db: &mut Session, number: usize) {
    wait_until(
        "everybody is asked",
        || (documents(db, "greynoise").len(), state(db)),
        |(stored, _)| *stored == number,
    );
}

/// Ends the database's worker as an administrator would, and waits for the next one.
fn terminate_worker(session: &mut Session) {
    let pid = worker_pid(session);
    session.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_for_another(session, pid);
}

#[track_caller]
fn wait_for_another(session: &mut Session, pid: i64) {
    wait_until(
        "there is another worker",
        || worker_pid_now(session),
        |now| now.is_some_and(|now| now != pid),
    );
}

fn answer(status: u16, body: impl Fn(&HttpRequest) -> String + Send + Sync + 'static) -> HttpBehaviour {
    HttpFault::Custom(Arc::new(move |request: &HttpRequest| CannedAnswer {
        status,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: body(request).into_bytes(),
    }))
    .into()
}

// --- Rules that are more than an expression ------------------------------------------------------

/// Texts that would close the parentheses around them.
const ESCAPES: [&str; 25] = [
    "1)::float8 FROM (SELECT 8::bigint AS ctid) s UNION ALL SELECT NULL, (1",
    "1)::float8 FROM (SELECT 'x'::text AS ctid) s; SELECT NULL, (1",
    "1) FROM keeper.session_summaries s; DELETE FROM keeper.session_summaries; SELECT (1",
    "1) FROM (SELECT 8::bigint AS ctid, 1) s WHERE (true",
    "1), (2",
    "1), (SELECT 2) AS x, (3",
    "1) UNION SELECT (2",
    "1) EXCEPT ALL SELECT (2",
    "1) WHERE (false",
    "1) HAVING (true",
    "1) GROUP BY (1",
    "1) ORDER BY (1",
    "1) LIMIT (1",
    "1) OFFSET (1",
    "1) INTO keeper.new_table FROM (SELECT 1) t WHERE (true",
    "1) WINDOW w AS (",
    "1) --",
    "1 /* not closed",
    "1)) AS pg_catalog.float8), CAST(((1",
    // In parentheses, each of these would be one expression.
    "'x') || ('y'",
    "'1') || ('7'",
    "1) IS DISTINCT FROM (2",
    "NULL) IS NULL) IS ((true",
    "s.command_count) + (0",
    "s.command_count) OR (true",
];

#[test]
fn a_rule_that_leaves_its_expression_is_refused_and_one_that_got_in_is_not_run() {
    let lab = plan("hostile-texts").start();
    let mut db = lab.database();
    let mut theirs = owner(&mut db, "keeper");
    let mut set = |text: &str| {
        theirs.try_run(&format!("SELECT enrich.set_session_priority('session_summaries', $set${text}$set$)"))
    };
    for text in ESCAPES {
        let refusal = set(text).expect_err(text);
        assert_eq!(refusal.code, "42601", "{text}: {refusal:?}");
    }
    assert_eq!(db.number("SELECT count(*) FROM enrich.session_priority"), 0);
    for text in ["s.command_count -- (", "s.command_count /* ) FROM pg_class; */", "(s.command_count) + (0)"]
    {
        set(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
    }

    // As if the rule had been stored by an earlier version, or restored from a dump.
    let mut asked_before = 0;
    for (n, text) in ESCAPES.into_iter().enumerate() {
        db.run(&format!("UPDATE enrich.session_priority SET expression = $set${text}$set$"));
        rules_are_news(&mut db);
        let sessions = shuffled(10 * n..10 * n + 2);
        insert_with_commands(&mut db, "keeper.session_summaries", &sessions);
        asked_before += 2;
        wait_for_answers(&mut db, asked_before);
    }
    assert!(
        lab.cluster.whole_log().contains("could not evaluate the session priority of a table"),
        "{}",
        lab.cluster.log()
    );
    assert_eq!(db.number("SELECT count(*) FROM keeper.session_summaries"), asked_before as i64);
    assert_eq!(db.one("SELECT to_regclass('keeper.new_table')"), "NULL");

    // The worker still works.
    rule(&mut theirs, "session_summaries", "(s.command_count) + (0)");
    lab.greynoise.forget();
    let ranked = shuffled(1_000..1_031);
    insert_with_commands(&mut db, "keeper.session_summaries", &ranked);
    wait_for_answers(&mut db, asked_before + 31);
    assert_eq!(asked(&lab.greynoise), by_rank(ranked));
    lab.assert_nothing_crashed();
}

/// Sets a rule for another table and removes it, so that the worker evaluates all rules again at once.
fn rules_are_news(db: &mut Session) {
    db.run(
        "CREATE TABLE IF NOT EXISTS public.another (source_ip inet, first_event_at timestamptz);
         DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM enrich.attached_tables WHERE rel = 'public.another'::regclass) THEN
                 PERFORM enrich.attach_session_table('public.another', 'source_ip', 'first_event_at');
             END IF;
             PERFORM enrich.set_session_priority('public.another', '1');
             PERFORM enrich.set_session_priority('public.another', NULL);
         END $$",
    );
}

/// Names in the rule are resolved by the search_path of the table's owner. Names in the worker's own query of the
/// table are not.
#[test]
fn functions_and_operators_of_the_owner_are_the_rules_and_not_the_workers() {
    let lab = plan("hostile-names").start();
    let mut db = lab.database();
    let mut theirs = owner(&mut db, "a");
    theirs.run(
        "CREATE TABLE a.seen (what text);
         CREATE FUNCTION a.host(inet) RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO a.seen VALUES ('host'); RETURN 8; END $$;
         CREATE FUNCTION a.tids(tid, tid) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO a.seen VALUES ('operator'); RETURN true; END $$;
         CREATE OPERATOR a.= (FUNCTION = a.tids, LEFTARG = tid, RIGHTARG = tid);
         CREATE OPERATOR a.>= (FUNCTION = a.tids, LEFTARG = tid, RIGHTARG = tid);
         CREATE OPERATOR a.< (FUNCTION = a.tids, LEFTARG = tid, RIGHTARG = tid);
         CREATE DOMAIN a.float8 AS bigint;
         CREATE FUNCTION a.rank(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * $1';
         SET search_path = a, pg_catalog",
    );
    rule(&mut theirs, "session_summaries", "rank(s.command_count)");
    let ranked = shuffled(0..31);
    insert_with_commands(&mut db, "a.session_summaries", &ranked);
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise), by_rank(ranked), "{}", lab.cluster.log());
    assert_eq!(db.rows("SELECT DISTINCT what FROM a.seen"), [] as [&str; 0]);
    lab.assert_nothing_crashed();
}

/// Advisory locks of a rule, which belong to the session of the worker, are released.
#[test]
fn advisory_locks_of_a_rule_are_not_kept() {
    let lab = plan("hostile-locks").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE SEQUENCE public.evaluated;
         CREATE FUNCTION public.lock_it(n integer) RETURNS integer LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM nextval('public.evaluated'), pg_advisory_lock(4711), pg_advisory_lock(4711),
                     pg_advisory_lock_shared(4712), pg_advisory_lock(4713 + n, 1);
             IF n > 5 THEN RAISE EXCEPTION 'as well'; END IF;
             RETURN n;
         END $$",
    );
    rule(&mut db, "session_summaries", "public.lock_it(s.command_count)");
    for commands in [1, 9] {
        let address = member(commands, 7);
        db.run("SELECT setval('public.evaluated', 1, false)");
        rules_are_news(&mut db);
        insert_with_commands(&mut db, "session_summaries", &[(address, commands as i64)]);
        wait_for_the_queue(&mut db);
        assert_eq!(db.one("SELECT is_called FROM public.evaluated"), "t", "{commands}");
        wait_until(
            "no lock is left",
            || {
                db.rows("SELECT pid, classid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint + objid::bigint IN (4711, 4712, 4715, 4723)")
            },
            Vec::is_empty,
        );
        assert_eq!(db.one("SELECT pg_try_advisory_xact_lock(4711)"), "t");
    }
    lab.assert_nothing_crashed();
}

// --- Code that runs as another role --------------------------------------------------------------

/// Returns code that records the role that it runs as, and makes its owner a superuser if it can.
fn grabber(role: &str) -> String {
    format!(
        "CREATE TABLE {role}.seen (who text);
         GRANT INSERT ON {role}.seen TO PUBLIC;
         GRANT USAGE ON SCHEMA {role} TO PUBLIC;
         CREATE FUNCTION {role}.grab(anything text) RETURNS integer LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO {role}.seen VALUES (current_user);
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE {role} SUPERUSER';
             END IF;
             RETURN 1;
         END $$"
    )
}

#[track_caller]
fn assert_nobody_grabbed(db: &mut Session, role: &str) {
    assert_eq!(db.one(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")), "f");
}

#[test]
fn a_rule_does_not_come_into_a_new_owners_rights() {
    let lab = plan("hostile-new-owner").start();
    let mut db = lab.database();
    let mut theirs = owner(&mut db, "analyst");
    theirs.run(&grabber("analyst"));
    rule(&mut theirs, "session_summaries", "analyst.grab(s.session_id)");
    insert_with_commands(&mut theirs, "session_summaries", &[(member(0, 7), 1)]);
    wait_for_the_queue(&mut db);
    // The rule is evaluated while the table belongs to the owner who set it.
    assert_eq!(db.rows("SELECT DISTINCT who FROM analyst.seen"), ["analyst"]);
    db.run("DELETE FROM analyst.seen; ALTER TABLE analyst.session_summaries OWNER TO postgres");
    let who = "SELECT DISTINCT who FROM analyst.seen";
    lab.greynoise.behave(held());
    insert_with_commands(&mut db, "analyst.session_summaries", &[(member(1, 7), 1)]);
    wait_until(
        "the rule's turn has come",
        || {
            (
                lab.cluster
                    .whole_log()
                    .contains("the owner of the table has changed since the priority was set"),
                db.rows(who),
            )
        },
        |(is_refused, who)| *is_refused || !who.is_empty(),
    );
    lab.greynoise.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 2);
    assert_nobody_grabbed(&mut db, "analyst");
    assert_eq!(db.rows(who), [] as [&str; 0]);
    wait_for_log(&lab, "the owner of the table has changed since the priority was set");

    // Does the same with a table that is given to another ordinary role, and then back to its first owner.
    let _ = nobody(&mut db, "heir");
    db.run("ALTER TABLE analyst.session_summaries OWNER TO heir");
    rules_are_news(&mut db);
    insert_with_commands(&mut db, "analyst.session_summaries", &[(member(2, 7), 1)]);
    wait_for_the_queue(&mut db);
    assert_eq!(db.rows("SELECT DISTINCT who FROM analyst.seen"), [] as [&str; 0]);
    db.run("ALTER TABLE analyst.session_summaries OWNER TO analyst");
    rules_are_news(&mut db);
    insert_with_commands(&mut db, "analyst.session_summaries", &[(member(3, 7), 1)]);
    wait_for_the_queue(&mut db);
    wait_until(
        "it is evaluated again",
        || db.rows("SELECT DISTINCT who FROM analyst.seen"),
        |who| who == &["analyst"],
    );
    lab.assert_nothing_crashed();
}

/// Creates a partitioned table of an ordinary role. The partition for the value 0 belongs to this role, the partition
/// for 1 to the superuser.
fn partitioned(db: &mut Database<'_>, role: &str, check: &str) -> Session {
    let mut theirs = nobody(db, role);
    theirs.run(&grabber(role));
    theirs.run(&format!(
        "CREATE TABLE {role}.parts (part int, source_ip inet, first_event_at timestamptz, session_id text{check})
             PARTITION BY LIST (part);
         CREATE TABLE {role}.part0 PARTITION OF {role}.parts FOR VALUES IN (0)"
    ));
    attach(db, &format!("{role}.parts"));
    db.run(&format!("CREATE TABLE {role}.part1 PARTITION OF {role}.parts FOR VALUES IN (1)"));
    assert_eq!(
        db.rows(&format!(
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class
             WHERE relnamespace = '{role}'::regnamespace AND relname IN ('parts', 'part0', 'part1') ORDER BY 1"
        )),
        [format!("part0|{role}"), "part1|postgres".to_owned(), format!("parts|{role}")]
    );
    theirs
}

fn insert_into_parts(theirs: &mut Session, rows: &[(i32, IpAddr)]) {
    let rows: Vec<String> =
        rows.iter().map(|(part, address)| format!("({part}, '{address}', now(), '{address}')")).collect();
    theirs.run(&format!("INSERT INTO parts VALUES {}", rows.join(", ")));
}

/// Sessions of the other partition stay pending.
fn wait_until_answered(db: &mut Session) {
    wait_until(
        "all jobs have ended",
        || {
            let left = "SELECT (SELECT count(*) FROM enrich.enrichment_request) + (SELECT count(*) FROM enrich.enrichment_job)";
            (db.number(left), state(db))
        },
        |(left, _)| *left == 0,
    );
}

#[test]
fn a_rule_is_not_evaluated_on_somebody_elses_partition() {
    let lab = plan("hostile-partition").start();
    let mut db = lab.database();
    let mut theirs = partitioned(&mut db, "analyst", "");
    rule(
        &mut theirs,
        "parts",
        "CASE WHEN s.part = 1 THEN analyst.grab(s.session_id) ELSE analyst.grab('own') END",
    );
    let rows: Vec<(i32, IpAddr)> = (0..10).map(|n| (n % 2, member(n as usize, 7))).collect();
    insert_into_parts(&mut theirs, &rows);
    wait_until_answered(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 10);
    assert_nobody_grabbed(&mut db, "analyst");
    assert_eq!(db.rows("SELECT DISTINCT who FROM analyst.seen"), ["analyst"], "{}", lab.cluster.log());
    // Only the partition of the table's owner is ranked.
    let own: BTreeSet<IpAddr> = rows.iter().filter(|(part, _)| *part == 0).map(|(_, a)| *a).collect();
    assert_eq!(asked(&lab.greynoise)[..5].iter().copied().collect::<BTreeSet<_>>(), own);
    wait_for_log(&lab, "part1: the owner of the table has changed since the priority was set");
    lab.assert_nothing_crashed();
}

#[test]
fn sessions_of_somebody_elses_partition_are_not_completed_as_them() {
    let lab = Plan::of("hostile-check", "maxmind,spur").start();
    let mut db = lab.database();
    let mut theirs = partitioned(&mut db, "analyst", ", CHECK (analyst.grab(session_id) = 1)");
    let typed = members_like(6, |address| synthetic_ip_type(address).is_some());
    let rows: Vec<(i32, IpAddr)> = typed.iter().enumerate().map(|(n, a)| ((n % 2) as i32, *a)).collect();
    lab.spur.behave(held());
    insert_into_parts(&mut theirs, &rows);
    wait_until_held(&lab.spur, 6);
    assert_eq!(db.rows("SELECT DISTINCT who FROM analyst.seen"), ["analyst"]);
    lab.spur.behave(HttpBehaviour::normal());
    wait_until_answered(&mut db);
    assert_eq!(documents(&mut db, "spur").len(), 6, "the inventory does not depend on it");
    assert_nobody_grabbed(&mut db, "analyst");
    assert_eq!(db.rows("SELECT DISTINCT who FROM analyst.seen"), ["analyst"]);
    let mut theirs_now: Vec<String> = rows
        .iter()
        .map(|(part, address)| {
            let kind = synthetic_ip_type(*address).filter(|_| *part == 0).unwrap_or("NULL");
            format!("{part}|{address}|{kind}")
        })
        .collect();
    theirs_now.sort();
    wait_until(
        "the sessions of the own partition are complete",
        || {
            let mut now = db.rows("SELECT part, host(source_ip), snapshot_ip_type FROM analyst.parts");
            now.sort();
            now
        },
        |now| *now == theirs_now,
    );
    wait_until(
        "the reason is shown",
        || {
            db.rows(
                "SELECT blocked_reason FROM enrich.completion_status WHERE rel = 'analyst.part1'::regclass",
            )
        },
        |reason| reason.iter().any(|reason| reason.contains("different owners")),
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.assert_nothing_crashed();
}

// --- Code that does not end ----------------------------------------------------------------------

/// Code that records its start, and then catches every error.
const ENDLESS: &str = "
    CREATE SEQUENCE public.began;
    CREATE FUNCTION public.spin() RETURNS integer LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM nextval('public.began');
        LOOP
            BEGIN
                PERFORM pg_sleep(0.02);
            EXCEPTION WHEN query_canceled OR OTHERS THEN NULL;
            END;
        END LOOP;
    END $$;
    CREATE FUNCTION public.spin_on(anything integer) RETURNS integer LANGUAGE sql AS 'SELECT public.spin()';
    CREATE FUNCTION public.spin_trigger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM public.spin(); RETURN NEW; END $$;";

fn endless_rule(db: &mut Database<'_>) {
    db.run(ENDLESS);
    SUMMARIES.create_attached(db);
    rule(db, "session_summaries", "public.spin_on(s.command_count)");
}

fn endless_trigger(db: &mut Database<'_>) {
    db.run(ENDLESS);
    SUMMARIES.create_attached(db);
    db.run(
        "CREATE TRIGGER theirs BEFORE UPDATE ON session_summaries FOR EACH ROW EXECUTE FUNCTION spin_trigger();
         ALTER TABLE session_summaries ENABLE ALWAYS TRIGGER theirs",
    );
}

#[track_caller]
fn wait_until_it_began(session: &mut Session) {
    wait_until("it runs", || session.one("SELECT is_called FROM public.began"), |is_called| is_called == "t");
}

#[test]
fn databases_whose_code_does_not_end_are_copied_and_dropped() {
    let lab = Plan::of("hostile-endless-drop", "maxmind,greynoise,spur")
        .with("greynoise_daily_quota = 1000")
        .start();
    let mut admin = lab.cluster.session_with("postgres", "postgres", "public");
    let address = members_like(1, |address| synthetic_ip_type(address).is_some())[0];
    let work: [fn(&mut Database<'_>); 2] = [endless_rule, endless_trigger];
    for (n, make_endless) in work.into_iter().enumerate() {
        for copies in [false, true] {
            let mut db = lab.database();
            make_endless(&mut db);
            insert_with_commands(&mut db, "session_summaries", &[(address, 1)]);
            wait_until_it_began(&mut db);
            let name = db.name.clone();
            drop(db);
            if copies {
                let copy = format!("hostile_copy_{n}");
                admin.run(&format!("CREATE DATABASE {copy} TEMPLATE \"{name}\""));
                admin.run(&format!("DROP DATABASE {copy}"));
            }
            admin.run(&format!("DROP DATABASE \"{name}\""));
        }
    }
    lab.assert_nothing_crashed();
}

// --- Many sessions -------------------------------------------------------------------------------

#[test]
fn batches_that_became_small_while_code_was_slow_grow_again() {
    const MANY: usize = 3_000;
    let lab = Plan::of("hostile-slow-once", "maxmind,spur").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE TABLE pause (is_on bool);
         INSERT INTO pause VALUES (true);
         CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF (SELECT is_on FROM public.pause) THEN PERFORM pg_catalog.pg_sleep(60); END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER pause BEFORE UPDATE ON session_summaries EXECUTE FUNCTION pause()",
    );
    let scanner = members_like(1, |address| synthetic_ip_type(address).is_some())[0];
    db.run(&format!(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             SELECT n, '{scanner}', now() FROM generate_series(1, {MANY}) n"
    ));
    wait_until(
        "a batch has one session",
        || (db.number("SELECT COALESCE(max(attempts), 0) FROM enrich.session_completion"), state(&mut db)),
        |(attempts, _)| *attempts >= 11,
    );
    db.run("UPDATE pause SET is_on = false");
    wait_until_complete(&mut db);
    assert_eq!(
        db.number("SELECT count(*) FROM session_summaries WHERE snapshot_ip_type IS NOT NULL"),
        MANY as i64
    );
    let batches = db.number(
        "SELECT count(DISTINCT xmin::text) FROM session_summaries WHERE snapshot_ip_type IS NOT NULL",
    );
    assert!(batches < 300, "{batches} transactions for {MANY} sessions");
}

#[test]
fn sixty_thousand_sessions_of_an_address_get_their_type_some_at_a_time() {
    const MANY: usize = 60_000;
    let lab = Plan::of("hostile-many", "maxmind,spur").start();
    let mut db = lab.database();
    let mut other = db.another();
    SUMMARIES.create_attached(&mut db);
    let typed = members_like(21, |address| synthetic_ip_type(address).is_some());
    let (scanner, others) = (typed[0], &typed[1..]);
    lab.spur.behave(held());
    let others: Vec<String> =
        others.iter().map(|address| format!("('{address}', '{address}', now())")).collect();
    db.run(&format!(
        "BEGIN;
         INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             SELECT n, '{scanner}', now() FROM generate_series(1, {MANY}) n;
         INSERT INTO session_summaries (session_id, source_ip, first_event_at) VALUES {};
         COMMIT",
        others.join(", ")
    ));
    wait_until_held(&lab.spur, 10);
    lab.spur.behave(HttpBehaviour::normal());
    let mut longest = 0;
    wait_until(
        "all is written down",
        || {
            let lasts = other.number(
                "SELECT COALESCE(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000)::int, 0)
                 FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker'",
            );
            longest = longest.max(lasts);
            (other.number("SELECT count(*) FROM enrich.enrichment_job"), state(&mut other))
        },
        |(left, _)| *left == 0,
    );
    wait_until_complete(&mut db);
    assert_eq!(
        db.rows("SELECT host(source_ip), snapshot_ip_type, count(*) FROM session_summaries GROUP BY 1, 2 ORDER BY 3 DESC, 1")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        typed
            .iter()
            .map(|address| {
                let number = if *address == scanner { MANY } else { 1 };
                format!("{address}|{}|{number}", synthetic_ip_type(*address).expect("it has one"))
            })
            .collect()
    );
    let transactions = db.number("SELECT count(DISTINCT xmin::text) FROM session_summaries");
    assert!(transactions >= 10, "{transactions} transactions");
    assert!(longest < 5_000, "a transaction lasted {longest} ms");
    assert_eq!(lab.spur.requests().len(), 21, "one request for each address");
    assert_eq!(db.number("SELECT count(*) FROM enrich.job_address"), 0);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.assert_nothing_crashed();
}

/// No answer for them can be in flight.
#[test]
fn sessions_ask_nothing_of_a_provider_that_cannot_be_asked() {
    let lab = Plan::of("hostile-blocked_reason", "maxmind,spur").start();
    lab.reconfigure(&["spur_token_file = ''"]);
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let requested = |db: &mut Session| db.number("SELECT count(*) FROM enrich.enrichment_request");
    let wait_until_jobs_exist = |db: &mut Session| {
        wait_until(
            "the requests are taken in, and the worker sleeps",
            || {
                let workers = "SELECT state FROM enrich.worker_status()
                               WHERE database = current_database() AND role = 'worker'";
                (requested(db), db.rows(workers))
            },
            |(left, state)| *left == 0 && (state == &["sleeping"] || state == &["waiting for a provider"]),
        );
    };
    // The worker's first sweep has ended.
    request(&mut db, "spur", &members(900..901));
    wait_until_jobs_exist(&mut db);
    // While this lock is held, the worker creates no jobs.
    let mut holder = db.another();
    let hold = "BEGIN; LOCK TABLE enrich.enrichment_job IN SHARE MODE";
    let insert = |db: &mut Session, key: &str| {
        db.run(&format!(
            "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             SELECT '{key}' || n, ('89.160.20.' || n % 20 + 1)::inet, now() FROM generate_series(1, 200) n"
        ));
    };
    insert(&mut db, "first");
    wait_until_jobs_exist(&mut db);
    assert_eq!(status(&mut db, "spur", "blocked_reason IS NOT NULL"), "t");
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 21);
    holder.run(hold);
    insert(&mut db, "second");
    for n in 0..20 {
        db.run(&SUMMARIES.insert(&[(&format!("single {n}"), Some("89.160.20.3"))]));
    }
    assert_eq!(requested(&mut db), 0, "known addresses ask for nothing");
    holder.run("ROLLBACK");

    // While requests are in flight, an answer for these addresses may arrive.
    lab.spur.behave(held());
    lab.reconfigure(&[&format!("spur_token_file = '{}'", lab.key_file("spur").display())]);
    wait_until_held(&lab.spur, 10);
    wait_until_jobs_exist(&mut db);
    holder.run(hold);
    insert(&mut db, "third");
    assert_eq!(requested(&mut db), 20);
    holder.run("ROLLBACK");
    lab.spur.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    let addresses = (1..=20).map(|n| format!("89.160.20.{n}").parse::<IpAddr>().expect("an address"));
    for address in addresses {
        let kind = synthetic_ip_type(address).unwrap_or("NULL");
        let types =
            format!("SELECT DISTINCT snapshot_ip_type FROM session_summaries WHERE source_ip = '{address}'");
        wait_until(
            &format!("the sessions of {address} have their type"),
            || (db.rows(&types), state(&mut db)),
            |(types, _)| *types == [kind],
        );
    }
    lab.assert_nothing_crashed();
}

// --- Quotas --------------------------------------------------------------------------------------

fn quota_plan(name: &str, clock: &Clock, quota: usize) -> Plan {
    Plan::of(name, "maxmind,greynoise")
        .with(&format!("greynoise_daily_quota = {quota}"))
        .options(|options| options.with_clock(clock))
}

#[test]
fn a_ledger_of_a_later_day_does_not_forget_what_is_spent_today() {
    let clock = Clock::at_noon("hostile-later-day");
    let lab = quota_plan("hostile-later-day", &clock, 10).start();
    let mut db = lab.database();
    request(&mut db, "greynoise", &members(0..4));
    wait_for_the_queue(&mut db);
    assert_eq!(status(&mut db, "greynoise", "quota, quota_left"), "10|6");
    for days in [1, 3, 4_000, -1] {
        db.run(&format!(
            "INSERT INTO enrich.provider_quota VALUES ('greynoise', current_date + {days}, 1, 1)"
        ));
    }
    terminate_worker(&mut db);
    request(&mut db, "greynoise", &members(4..30));
    wait_for_status(&mut db, "greynoise", "quota, quota_left, in_flight", "10|0|0");
    // Answers that are not stored yet would be lost with the worker.
    wait_for_answers(&mut db, 10);
    terminate_worker(&mut db);
    wait_for_status(&mut db, "greynoise", "quota, quota_left, in_flight", "10|0|0");
    assert_eq!(asked(&lab.greynoise).len(), 10);
    assert_eq!(
        db.rows("SELECT day - current_date, requests FROM enrich.provider_quota ORDER BY 1"),
        ["-1|1", "0|10", "1|1", "3|1", "4000|1"]
    );
    lab.assert_nothing_crashed();
}

#[test]
fn what_a_database_spent_that_was_dropped_stays_spent() {
    let clock = Clock::at_noon("hostile-dropped");
    let lab = quota_plan("hostile-dropped", &clock, 10).start();
    let mut kept = lab.database();
    let mut gone = lab.database();
    // The worker runs before any quota is spent.
    request(&mut kept, "greynoise", &members(0..1));
    wait_for_the_queue(&mut kept);
    request(&mut gone, "greynoise", &members(1..7));
    wait_for_the_queue(&mut gone);
    assert_eq!(asked(&lab.greynoise).len(), 7);
    terminate_worker(&mut kept);
    wait_until(
        "it has written down what others spent",
        || kept.rows("SELECT requests, cluster_spent FROM enrich.provider_quota"),
        |rows| rows == &["1|7"],
    );
    let (name, gone_name) = (kept.name.clone(), gone.name.clone());
    drop(gone);
    lab.cluster.session_with("postgres", "postgres", "public").run(&format!("DROP DATABASE \"{gone_name}\""));
    drop(kept);
    lab.cluster.stop_fast();
    lab.cluster.start_again();
    let mut kept = lab.cluster.session(&name);
    request(&mut kept, "greynoise", &members(100..130));
    wait_for_status(&mut kept, "greynoise", "quota, quota_left, in_flight", "10|0|0");
    wait_for_answers(&mut kept, 4);
    assert_eq!(asked(&lab.greynoise).len(), 10);
    lab.assert_nothing_crashed();
}

// --- Rules that are slow, late or wrong for a row ------------------------------------------------

#[test]
fn a_slow_rule_holds_up_neither_requests_nor_the_rules_of_others() {
    let lab = plan("hostile-slow").start();
    let mut db = lab.database();
    // Its rule is evaluated first.
    SUMMARIES.create_attached(&mut db);
    // With few rows on a page, the rule can be evaluated for a page in one step.
    db.run("ALTER TABLE session_summaries SET (fillfactor = 20)");
    COWRIE.create_attached(&mut db);
    // Rules of one owner are evaluated one after the other.
    db.run(
        "CREATE ROLE slow_owner; GRANT CREATE ON SCHEMA public TO slow_owner;
         ALTER TABLE session_summaries OWNER TO slow_owner;
         CREATE SEQUENCE public.began; GRANT USAGE ON SEQUENCE public.began TO slow_owner;
         CREATE FUNCTION public.slow(n integer) RETURNS integer LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('public.began'), pg_sleep(0.01); RETURN n; END $$",
    );
    rule(&mut db, "session_summaries", "public.slow(s.command_count)");
    rule(&mut db, "sessions", "length(s.id)");
    let slow: Vec<(IpAddr, i64)> = (0..3_000).map(|n| (member(n % 20, 7), 0)).collect();
    let ranked = shuffled(100..111);
    let rows: Vec<(String, String)> = ranked
        .iter()
        .map(|(address, rank)| ("x".repeat(usize::try_from(*rank).expect("small")), address.to_string()))
        .collect();
    let rows: Vec<(&str, Option<&str>)> =
        rows.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
    db.run("BEGIN");
    insert_with_commands(&mut db, "session_summaries", &slow);
    db.run(&COWRIE.insert(&rows));
    db.run("COMMIT");
    let started = Instant::now();
    wait_until_it_began(&mut db);
    wait_until("some are asked", || (asked(&lab.greynoise).len(), state(&mut db)), |(asked, _)| *asked >= 5);
    // All 3,000 rows take half a minute.
    let first = lab.greynoise.requests()[0].at - started;
    assert!(first < SOME_SECONDS, "the first was asked after {first:?}");
    assert_eq!(asked(&lab.greynoise)[..5], by_rank(ranked)[..5], "{}", lab.cluster.log());
    assert!(db.number("SELECT last_value FROM public.began") < 3_000, "it was not waited for");
    lab.assert_nothing_crashed();
}

#[test]
fn a_rule_that_is_set_while_lookups_wait_is_evaluated_without_a_new_one() {
    let clock = Clock::at_noon("hostile-late");
    let lab = quota_plan("hostile-late", &clock, 5).with("greynoise_max_parallel = 1").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let sessions = shuffled(0..31);
    insert_with_commands(&mut db, "session_summaries", &sessions);
    wait_for_status(&mut db, "greynoise", "quota_left, in_flight", "0|0");
    wait_for_answers(&mut db, 5);
    let done: BTreeSet<IpAddr> = asked(&lab.greynoise).into_iter().collect();
    let waiting = by_rank(sessions.iter().copied().filter(|(address, _)| !done.contains(address)).collect());
    let order = "SELECT lookup_key FROM enrich.enrichment_job ORDER BY priority DESC, lookup_key::inet";
    let in_order = |db: &mut Session| {
        db.rows(order).iter().map(|row| row.parse().expect("an address")).collect::<Vec<IpAddr>>()
    };
    assert_ne!(in_order(&mut db), waiting);
    let mut ranks = waiting.clone();
    rule(&mut db, "session_summaries", "s.command_count");
    wait_until("the jobs are ranked", || (in_order(&mut db), state(&mut db)), |(now, _)| *now == ranks);
    assert_eq!(count(&mut db, "greynoise", "requests"), 5);
    // Another rule gives these jobs a higher priority.
    rule(&mut db, "session_summaries", "1000 - s.command_count");
    ranks.reverse();
    wait_until("the jobs are ranked anew", || (in_order(&mut db), state(&mut db)), |(now, _)| *now == ranks);
    clock.set(1, 60);
    wait_for_answers(&mut db, 10);
    assert_eq!(asked(&lab.greynoise)[5..], ranks[..5]);
    lab.assert_nothing_crashed();
}

#[test]
fn a_row_for_which_a_rule_fails_leaves_those_of_other_pages_ranked() {
    let lab = plan("hostile-row").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "s.command_count + 0 / s.command_count");
    let mut sessions = vec![(member(5_000, 7), 0)];
    sessions.extend(shuffled(0..501));
    insert_with_commands(&mut db, "session_summaries", &sessions);
    let pages = db.rows("SELECT host(source_ip), (ctid::text::point)[0] FROM session_summaries");
    let first: BTreeSet<IpAddr> = pages
        .iter()
        .filter_map(|row| row.strip_suffix("|0"))
        .map(|address| address.parse().expect("an address"))
        .collect();
    assert!(first.contains(&member(5_000, 7)) && first.len() < 200, "{}", first.len());
    wait_for_answers(&mut db, 502);
    let others: Vec<(IpAddr, i64)> =
        sessions.iter().copied().filter(|(address, _)| !first.contains(address)).collect();
    assert_eq!(asked(&lab.greynoise)[..others.len()], by_rank(others), "{}", lab.cluster.log());
    assert!(lab.cluster.whole_log().contains("division by zero"), "{}", lab.cluster.log());
    lab.assert_nothing_crashed();
}

// --- Answers that are none -----------------------------------------------------------------------

#[test]
fn countries_that_are_none_and_answers_of_years_ahead_are_not_believed() {
    let lab = Plan::of("hostile-countries", "maxmind,dshield").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let said = ["XX", "ZZ", "xx", " zz ", "D", "DEU", "1A", "de", "NL"];
    let stored = ["NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "DE", "NL"];
    for (n, country) in said.into_iter().enumerate() {
        lab.dshield.behave_for(
            member(n, 7),
            answer(200, move |request| {
                let address = request.ip.expect("an address");
                format!("{{\"ip\":{{\"number\":\"{address}\",\"count\":5,\"ascountry\":\"{country}\"}}}}")
            }),
        );
        db.run(&SUMMARIES.insert(&[(&format!("before {n}"), Some(&member(n, 7).to_string()))]));
    }
    wait_for_the_queue(&mut db);
    for (n, country) in stored.into_iter().enumerate() {
        assert_eq!(document(&mut db, member(n, 7), "dshield")["ip"]["ascountry"], said[n], "as it was sent");
        db.run(&SUMMARIES.insert(&[(&format!("after {n}"), Some(&member(n, 7).to_string()))]));
        for key in ["before", "after"] {
            let snapshot = SUMMARIES.snapshot(&mut db, &format!("{key} {n}"));
            assert_eq!(snapshot, format!("NULL|{country}|NULL"), "{:?}", said[n]);
        }
    }

    // The answer has an impossible time, so it is not used.
    let address = member(0, 7);
    lab.dshield.forget();
    request(&mut db, "dshield", &[address]);
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.dshield), [] as [IpAddr; 0], "it is fresh");
    db.run(&format!(
        "UPDATE enrich.ip_inventory
         SET enrichment = jsonb_set(enrichment, '{{dshield,cached_at}}', '\"2099-01-01T00:00:00.000000+00:00\"')
         WHERE ip_address = '{address}'"
    ));
    request(&mut db, "dshield", &[address]);
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.dshield), [address]);
    let cached_at = format!(
        "SELECT (enrichment #>> '{{dshield,cached_at}}')::timestamptz <= now()
         FROM enrich.ip_inventory WHERE ip_address = '{address}'"
    );
    assert_eq!(db.one(&cached_at), "t");
    lab.assert_nothing_crashed();
}

/// A provider that sends this error for every address is down, with any status.
#[test]
fn a_database_that_is_down_at_the_provider_kills_no_lookup() {
    let lab = Plan::of("hostile-down", "maxmind,dshield").start();
    let mut db = lab.database();
    request(&mut db, "dshield", &members(900..901));
    wait_for_the_queue(&mut db);
    lab.dshield.behave(answer(200, |_| "{\"error\":\"database is down\"}".to_owned()));
    lab.dshield.forget();
    let addresses = members(0..40);
    request(&mut db, "dshield", &addresses);
    // Waits until there are three times as many failures as all lookups have attempts.
    wait_until(
        "it was asked often enough",
        || {
            db.run("SELECT enrich.resume_provider('dshield')");
            (lab.dshield.requests().len(), state(&mut db))
        },
        |(requests, _)| *requests >= 40,
    );
    wait_until(
        "what it said is known",
        || status(&mut db, "dshield", "last_error"),
        |error| error.contains("database is down"),
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "{}", state(&mut db));
    assert_eq!(status(&mut db, "dshield", "dead_letters, refused"), "0|0");
    lab.dshield.behave(HttpBehaviour::normal());
    wait_until(
        "the queue drains",
        || {
            db.run("SELECT enrich.resume_provider('dshield')");
            (db.number("SELECT count(*) FROM enrich.enrichment_job"), state(&mut db))
        },
        |(left, _)| *left == 0,
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    for address in addresses {
        // A number or a text.
        let attacks = document(&mut db, address, "dshield")["ip"]["attacks"].to_string();
        let expected = synthetic_dshield_attacks(address).map_or("null".to_owned(), |n| n.to_string());
        assert_eq!(attacks.trim_matches('"'), expected, "{address}");
    }
    lab.assert_nothing_crashed();
}

/// The provider's URL is answered by a gateway, or by another web server because the URL is mistyped.
#[test]
fn a_page_that_is_not_there_is_no_word_about_an_address() {
    let lab = Plan::of("hostile-gateway", "maxmind,spur").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let typed = members_like(10, |address| synthetic_ip_type(address).is_some());
    lab.spur.behave(answer(404, |_| "{\"message\":\"no Route matched with those values\"}".to_owned()));
    for (n, address) in typed.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    wait_until(
        "it was asked",
        || {
            db.run("SELECT enrich.resume_provider('spur')");
            (count(&mut db, "spur", "bad_status"), state(&mut db))
        },
        |(failed, _)| *failed >= 20,
    );
    assert_eq!(status(&mut db, "spur", "absent, answers, dead_letters"), "0|0|0");
    assert_eq!(
        db.number("SELECT count(*) FROM enrich.ip_inventory WHERE enrichment -> '_meta' ? 'spur'"),
        0,
        "nothing is known"
    );
    lab.spur.behave(HttpBehaviour::normal());
    wait_until(
        "the queue drains",
        || {
            db.run("SELECT enrich.resume_provider('spur')");
            (db.number("SELECT count(*) FROM enrich.enrichment_job"), state(&mut db))
        },
        |(left, _)| *left == 0,
    );
    wait_until_complete(&mut db);
    for (n, address) in typed.iter().enumerate() {
        let kind = synthetic_ip_type(*address).expect("it has one");
        assert_eq!(SUMMARIES.snapshot(&mut db, &format!("s{n}")), format!("NULL|NULL|{kind}"));
    }
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.assert_nothing_crashed();
}
