//! Quota is spent by priority: rules of session tables, and their restrictions.

use std::net::IpAddr;

use server_tests::clock::Clock;
use server_tests::cymru::{assert_placed, member, members, state, wait_for_the_queue};
use server_tests::database::restored_from;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::http::{Plan, asked, documents, request, status, wait_for_status};
use server_tests::{Database, Session, wait_until};

/// One request at a time, so that requests arrive in the order in which they were sent.
fn plan(name: &str) -> Plan {
    Plan::of(name, "maxmind,cymru,greynoise")
        .with("greynoise_max_parallel = 1")
        .with("greynoise_daily_quota = 1000")
}

fn rule(session: &mut Session, table: &str, expression: &str) {
    session.run(&format!("SELECT enrich.set_session_priority('{table}', $rule${expression}$rule$)"));
}

/// Inserts sessions of SUMMARIES in one transaction, each with its number of commands.
fn insert_with_commands(session: &mut Session, sessions: &[(IpAddr, i64)]) {
    let rows: Vec<String> = sessions
        .iter()
        .enumerate()
        .map(|(n, (address, commands))| format!("('{address} {n}', '{address}', '2024-05-01', {commands})"))
        .collect();
    session.run(&format!(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at, command_count) VALUES {}",
        rows.join(", ")
    ));
}

/// Returns addresses with priorities. The order of the priorities differs from the order of the addresses.
fn shuffled(number: usize) -> Vec<(IpAddr, i64)> {
    members(0..number)
        .into_iter()
        .enumerate()
        .map(|(n, address)| (address, (n * 7 % number) as i64))
        .collect()
}

fn by_rank(mut ranked: Vec<(IpAddr, i64)>) -> Vec<IpAddr> {
    ranked.sort_by_key(|(_, rank)| std::cmp::Reverse(*rank));
    ranked.into_iter().map(|(address, _)| address).collect()
}

#[test]
fn the_rule_decides_on_the_order_of_requests() {
    let lab = plan("priority-order").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "s.command_count -- of the honeypot");
    let mut ranked = shuffled(61);
    // An address has the priority of its most important session.
    let mut sessions = ranked.clone();
    sessions.extend(ranked.iter().map(|(address, _)| (*address, -5)));
    sessions.reverse();
    // The priority of a direct request counts as well.
    let asked_for = [(member(500, 7), 30_000), (member(501, 7), 20_000)];
    let addresses: Vec<String> = asked_for
        .iter()
        .map(|(address, rank)| format!("enrich.request_enrichment('{address}', 'greynoise', {rank})"))
        .collect();
    db.run(&format!("BEGIN; SELECT {}", addresses.join(", ")));
    insert_with_commands(&mut db, &sessions);
    db.run("COMMIT");
    wait_for_the_queue(&mut db);
    ranked.extend(asked_for);
    assert_eq!(asked(&lab.greynoise), by_rank(ranked));
    lab.assert_nothing_crashed();
}

/// Without a rule the order of requests is another one. So the order in the test above comes from the rule.
#[test]
fn without_a_rule_the_order_is_another() {
    let lab = plan("priority-none").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "s.command_count");
    db.run("SELECT enrich.set_session_priority('session_summaries', NULL)");
    assert_eq!(db.number("SELECT count(*) FROM enrich.session_priority"), 0);
    let ranked = shuffled(61);
    insert_with_commands(&mut db, &ranked);
    wait_for_the_queue(&mut db);
    assert_ne!(asked(&lab.greynoise), by_rank(ranked));
    assert_eq!(asked(&lab.greynoise).len(), 61);
}

const COWRIES_TABLES: &str = "
    CREATE TABLE input (id serial PRIMARY KEY, session char(32) NOT NULL, timestamp timestamp NOT NULL, input text NOT NULL);
    CREATE INDEX ON input (session);
    CREATE TABLE downloads (id serial PRIMARY KEY, session char(32) NOT NULL, url text NOT NULL);
    CREATE INDEX ON downloads (session);";

const COWRIES_RULE: &str = "(SELECT count(*) FROM input i WHERE i.session = s.id)
     + 20 * (SELECT count(*) FROM downloads d WHERE d.session = s.id)
     + CASE WHEN s.endtime - s.starttime > interval '5 minutes' THEN 10 ELSE 0 END";

/// As in the manual: the other tables are in the owner's search_path.
#[test]
fn a_rule_may_look_at_other_tables_with_its_owners_search_path() {
    let lab = plan("priority-cowrie").start();
    let mut db = lab.database();
    db.run(
        "CREATE ROLE pot LOGIN; CREATE SCHEMA honey AUTHORIZATION pot; GRANT USAGE ON SCHEMA enrich TO pot;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO pot",
    );
    let mut pot = lab.cluster.session_with(&db.name, "pot", "honey");
    COWRIE.create(&mut pot);
    pot.run(COWRIES_TABLES);
    db.run("SELECT enrich.attach_session_table('honey.sessions', 'ip', 'starttime')");
    pot.run(&format!("SELECT enrich.set_session_priority('sessions', $rule${COWRIES_RULE}$rule$)"));
    // Other tables with these names, which another search_path would find.
    db.run(COWRIES_TABLES);
    let addresses = members(0..9);
    let mut statements = vec!["BEGIN".to_owned()];
    let mut ranked = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        statements.push(COWRIE.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
        let (commands, files, long) = (n * 4 % 9, n % 2, n % 3 == 0);
        statements.extend(
            (0..commands).map(|_| {
                format!("INSERT INTO input (session, timestamp, input) VALUES ('s{n}', now(), 'ls')")
            }),
        );
        statements.extend(
            (0..files).map(|_| format!("INSERT INTO downloads (session, url) VALUES ('s{n}', 'http://x')")),
        );
        if long {
            statements.push(format!(
                "UPDATE sessions SET endtime = starttime + interval '6 minutes' WHERE id = 's{n}'"
            ));
        }
        ranked.push((*address, (commands + 20 * files + if long { 10 } else { 0 }) as i64));
    }
    let ranks: std::collections::BTreeSet<i64> = ranked.iter().map(|(_, rank)| *rank).collect();
    assert_eq!(ranks.len(), 9, "no two alike: {ranked:?}");
    statements.push("COMMIT".to_owned());
    pot.run(&statements.join(";"));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise), by_rank(ranked), "{}", lab.cluster.log());
    lab.assert_nothing_crashed();
}

/// The events of a session are stored after it. The next day's quota is spent by the priorities of that day.
#[test]
fn commands_that_come_later_count_the_next_day() {
    let clock = Clock::at_noon("priority-later");
    let lab = plan("priority-later")
        .with("greynoise_daily_quota = 4")
        .options(|options| options.with_clock(&clock))
        .start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "s.command_count");
    let ranked = shuffled(11);
    insert_with_commands(&mut db, &ranked);
    wait_for_status(&mut db, "greynoise", "quota_left, in_flight", "0|0");
    let order = by_rank(ranked);
    assert_eq!(asked(&lab.greynoise), order[..4]);
    let late = order[8..].iter().rev().copied().collect::<Vec<_>>();
    for (n, address) in late.iter().enumerate() {
        db.run(&format!(
            "UPDATE session_summaries SET command_count = {} WHERE source_ip = '{address}'",
            1_000 - n
        ));
    }
    clock.set(1, 60);
    wait_until(
        "the next day's are asked",
        || (asked(&lab.greynoise).len(), state(&mut db)),
        |(n, _)| *n == 8,
    );
    let expected: Vec<IpAddr> = late.iter().chain(&order[4..5]).copied().collect();
    assert_eq!(asked(&lab.greynoise)[4..], expected);
    clock.set(2, 60);
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise)[8..], order[5..8]);
    lab.assert_nothing_crashed();
}

#[test]
fn a_rule_of_a_partitioned_table_holds_for_its_partitions() {
    let lab = plan("priority-parts").start();
    let mut db = lab.database();
    db.run(
        "CREATE TABLE public.parts (id int, source_ip inet, at timestamptz, rank int) PARTITION BY LIST (id);
         CREATE TABLE public.part0 PARTITION OF public.parts FOR VALUES IN (0);
         CREATE TABLE public.part1 (rank int, gone int, at timestamptz, source_ip inet, id int);
         ALTER TABLE public.part1 DROP COLUMN gone;
         ALTER TABLE public.parts ATTACH PARTITION public.part1 FOR VALUES IN (1);
         SELECT enrich.attach_session_table('public.parts', 'source_ip', 'at')",
    );
    rule(&mut db, "public.parts", "s.rank / 2.0");
    assert_eq!(db.refused("SELECT enrich.set_session_priority('public.part0', '1')").code, "55000");
    let ranked = shuffled(40);
    let rows: Vec<String> = ranked
        .iter()
        .enumerate()
        .map(|(n, (address, rank))| format!("({}, '{address}', now(), {})", n % 2, rank * 2))
        .collect();
    db.run(&format!("INSERT INTO public.parts VALUES {}", rows.join(", ")));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise), by_rank(ranked));
}

/// Values that are not numbers or are too large, and rules that fail for a row.
#[test]
fn a_rule_that_fails_for_a_row_is_logged_and_keeps_nothing_from_being_asked() {
    let lab = plan("priority-failing").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    COWRIE.create_attached(&mut db);
    rule(&mut db, "session_summaries", "100 / s.command_count");
    rule(
        &mut db,
        "sessions",
        "CASE s.id WHEN 'nan' THEN 'NaN'::float8 WHEN 'inf' THEN 'Infinity' WHEN 'low' THEN '-infinity'
                                         WHEN 'null' THEN NULL WHEN 'ten' THEN 1000 ELSE 500 END",
    );
    let failing = members(0..20);
    let names = ["nan", "inf", "low", "null", "ten", "five"];
    let rows: Vec<(String, String)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| ((*name).to_owned(), member(100 + n, 7).to_string()))
        .collect();
    let rows: Vec<(&str, Option<&str>)> =
        rows.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
    db.run("BEGIN");
    insert_with_commands(
        &mut db,
        &failing.iter().enumerate().map(|(n, a)| (*a, n as i64)).collect::<Vec<_>>(),
    );
    db.run(&COWRIE.insert(&rows));
    db.run("COMMIT");
    wait_for_the_queue(&mut db);
    assert!(lab.cluster.whole_log().contains("division by zero"), "{}", lab.cluster.log());
    // The other table's rule is still applied.
    let order: Vec<String> = asked(&lab.greynoise).iter().map(IpAddr::to_string).collect();
    let names = order.iter().filter_map(|ip| rows.iter().find(|(_, address)| *address == Some(ip)));
    let first: Vec<&str> = names.take(3).map(|(name, _)| *name).collect();
    assert_eq!(first, ["inf", "ten", "five"], "{order:?}");
    assert_eq!(order.len(), 26);
    assert_placed(&mut db, &failing);
    lab.assert_nothing_crashed();
}

#[test]
fn a_rule_that_takes_its_time_is_cut_off_and_holds_nobody_up() {
    let lab = plan("priority-slow").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "(SELECT 1 FROM pg_sleep(20 + 0 * s.command_count))");
    let mut other = db.another();
    let addresses = members(0..30);
    insert_with_commands(&mut db, &addresses.iter().map(|address| (*address, 1)).collect::<Vec<_>>());
    let mut longest = 0;
    wait_until(
        "everybody is asked",
        || {
            let lasts = other.number(
                "SELECT COALESCE(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000)::int, 0)
                 FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker'",
            );
            longest = longest.max(lasts);
            (documents(&mut db, "greynoise").len(), state(&mut db))
        },
        |(stored, _)| *stored == 30,
    );
    wait_for_the_queue(&mut db);
    assert!(
        lab.cluster.whole_log().contains("could not evaluate the session priority of a table"),
        "{}",
        lab.cluster.log()
    );
    // 0.6 s plus a margin for a busy machine, and not the rule's 20 s.
    assert!(longest < 5_000, "a transaction lasted {longest} ms");
    assert_placed(&mut db, &addresses);
    // The rule slows neither a second insert nor another provider.
    request(&mut db, "cymru", &members(100..101));
    wait_for_the_queue(&mut db);
    lab.assert_nothing_crashed();
}

/// Creates a role that owns a session table and has no other privileges. Returns its session.
fn owner(db: &mut Database<'_>, role: &str) -> Session {
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA {role} AUTHORIZATION {role}; GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO {role}"
    ));
    let mut session = db.cluster.session_with(&db.name, role, role);
    SUMMARIES.create(&mut session);
    db.run(&format!(
        "SELECT enrich.attach_session_table('{role}.session_summaries', 'source_ip', 'first_event_at')"
    ));
    session
}

#[test]
fn a_rule_has_its_tables_owners_rights_and_no_more() {
    let lab = plan("priority-rights").start();
    let mut db = lab.database();
    let mut theirs = owner(&mut db, "thief");
    let refusal = theirs.refused("SELECT enrich.set_session_priority('session_summaries', '(SELECT count(*) FROM enrich.ip_inventory)')");
    assert_eq!(refusal.code, "42501", "{refusal:?}");
    assert_eq!(
        theirs
            .refused(
                "SELECT enrich.set_session_priority('session_summaries', '(SELECT count(*) FROM pg_authid)')"
            )
            .code,
        "42501"
    );
    // The owner has the privilege when it sets the rule.
    db.run("CREATE TABLE public.secret (a int); GRANT SELECT ON public.secret TO thief");
    theirs.run(
        "SELECT enrich.set_session_priority('session_summaries', '(SELECT count(*) FROM public.secret)')",
    );
    db.run("REVOKE SELECT ON public.secret FROM thief");
    theirs.run("INSERT INTO session_summaries (session_id, source_ip) VALUES ('a', '60.0.0.7')");
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 1);
    assert!(lab.cluster.whole_log().contains("permission denied for table secret"), "{}", lab.cluster.log());
    lab.assert_nothing_crashed();
}

/// A rule acts as its table's owner, even if another role set it.
#[test]
fn a_rule_runs_as_its_tables_owner_and_can_become_nobody_else() {
    let lab = plan("priority-owner").start();
    for (n, (as_superuser, function)) in
        [(false, "thief.pry()"), (false, "thief.definer()"), (true, "pry()"), (true, "thief.definer()")]
            .into_iter()
            .enumerate()
    {
        let mut db = lab.database();
        let name = format!("thief{n}");
        let mut theirs = owner(&mut db, &name);
        let named = |sql: &str| sql.replace("thief", &name);
        theirs.run(&named(
            "CREATE TABLE thief.seen (who text, told text);
         CREATE FUNCTION thief.pry() RETURNS int LANGUAGE plpgsql AS $$
         DECLARE
             told text := '';
         BEGIN
             BEGIN
                 EXECUTE 'SET ROLE postgres'; told := told || ' role ' || current_user;
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 EXECUTE 'RESET SESSION AUTHORIZATION'; told := told || ' session ' || current_user;
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 PERFORM set_config('role', 'postgres', true); told := told || ' config ' || current_user;
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 EXECUTE 'ALTER ROLE thief SUPERUSER'; told := told || ' superuser';
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 PERFORM rolpassword FROM pg_authid; told := told || ' passwords';
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 PERFORM FROM enrich.ip_inventory; told := told || ' inventory';
             EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN
                 CREATE TEMP TABLE enrichment_job (a int); told := told || ' temp';
             EXCEPTION WHEN OTHERS THEN NULL; END;
             INSERT INTO thief.seen VALUES (current_user, told);
             RETURN 1;
         END $$;
         CREATE FUNCTION thief.definer() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT thief.pry()'",
        ));
        let setter = if as_superuser { &mut *db } else { &mut theirs };
        setter.run(&named("BEGIN; SET LOCAL search_path = thief"));
        setter.run(&named(&format!(
            "SELECT enrich.set_session_priority('session_summaries', '{function}'); COMMIT"
        )));
        theirs.run(&named("DELETE FROM thief.seen"));
        theirs.run(&format!(
            "INSERT INTO session_summaries (session_id, source_ip) VALUES ('a', '{}')",
            member(10, 7)
        ));
        wait_for_the_queue(&mut db);
        assert_eq!(
            db.rows(&named("SELECT DISTINCT who, told FROM thief.seen")),
            [named("thief|")],
            "{function}, {as_superuser}\n{}",
            lab.cluster.log()
        );
        assert_eq!(db.one(&named("SELECT rolsuper FROM pg_roles WHERE rolname = 'thief'")), "f");
    }
    lab.assert_nothing_crashed();
}

#[test]
fn only_the_owner_sets_a_rule_and_only_one_that_works() {
    let lab = plan("priority-set").start();
    let mut db = lab.database();
    let mut theirs = owner(&mut db, "keeper");
    SUMMARIES.create(&mut db);
    db.run("CREATE ROLE passer LOGIN; GRANT USAGE ON SCHEMA enrich, keeper TO passer;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA enrich TO passer; GRANT ALL ON keeper.session_summaries TO passer");
    let mut stranger = db.session_as("passer");
    for expression in ["'1'", "NULL"] {
        let set = format!("SELECT enrich.set_session_priority('keeper.session_summaries', {expression})");
        assert_eq!(stranger.refused(&set).code, "42501", "{expression}");
    }
    let mut refused = |sql: &str| {
        let refusal = theirs
            .refused(&format!("SELECT enrich.set_session_priority('keeper.session_summaries', $r${sql}$r$)"));
        refusal.code
    };
    for (sql, code) in [
        ("1 +", "42601"),
        ("1) FROM pg_class; DROP TABLE keeper.session_summaries; SELECT (1", "42601"),
        // Whole statements with correct syntax.
        (
            "1)::float8 FROM ONLY keeper.session_summaries s; DROP TABLE keeper.session_summaries; SELECT NULL::tid, (1",
            "42601",
        ),
        ("SELECT 1 FROM pg_class; SELECT 1", "42601"),
        ("1), (2", "42601"),
        ("1 AS one", "42601"),
        ("s.nothing", "42703"),
        ("nothing()", "42883"),
        ("(SELECT 1 FROM nowhere)", "42P01"),
        ("count(*)", "42803"),
        ("'x'::text::int::point", "42846"),
    ] {
        assert_eq!(refused(sql), code, "{sql}");
    }
    assert_eq!(
        db.refused("SELECT enrich.set_session_priority('session_summaries', '1')").code,
        "55000",
        "not attached"
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.session_priority"), 0);
    let rules = "SELECT rel, expression, search_path FROM enrich.session_priority";
    theirs.run("SELECT enrich.set_session_priority('session_summaries', ' s.command_count ')");
    assert_eq!(db.rows(rules), ["keeper.session_summaries|s.command_count|keeper"]);
    theirs.run("SELECT enrich.set_session_priority('session_summaries', 's.file_downloads')");
    assert_eq!(db.rows(rules), ["keeper.session_summaries|s.file_downloads|keeper"]);
    theirs.run("SELECT enrich.set_session_priority('session_summaries', NULL)");
    assert_eq!(db.rows(rules), [] as [&str; 0]);

    // A dropped table's rule is deleted when the rules are evaluated again.
    theirs.run("SELECT enrich.set_session_priority('session_summaries', 's.file_downloads'); DROP TABLE session_summaries");
    request(&mut db, "greynoise", &members(0..3));
    wait_for_the_queue(&mut db);
    wait_until("the rule is forgotten", || db.rows(rules), Vec::is_empty);
    lab.assert_nothing_crashed();
}

#[test]
fn a_rule_survives_dump_and_restore() {
    let lab = plan("priority-dump").start();
    let name = {
        let mut db = lab.database();
        SUMMARIES.create_attached(&mut db);
        rule(&mut db, "session_summaries", "s.command_count");
        for format in ["custom", "plain"] {
            let dump = db.dump(format);
            lab.greynoise.forget();
            let mut restored = restored_from(&lab.cluster, &dump, format);
            assert_eq!(
                restored.rows("SELECT rel, expression, search_path FROM enrich.session_priority"),
                ["session_summaries|s.command_count|public,enrich"]
            );
            let ranked = shuffled(31);
            insert_with_commands(&mut restored, &ranked);
            wait_for_the_queue(&mut restored);
            assert_eq!(asked(&lab.greynoise), by_rank(ranked), "{format}");
        }
        db.name.clone()
    };
    assert!(!name.is_empty());
    lab.assert_nothing_crashed();
}

/// If the table of a rule is locked exclusively, the evaluation is cancelled, like that of a slow rule.
#[test]
fn a_table_that_is_locked_does_not_hold_the_worker_up_for_good() {
    let lab = plan("priority-locked").start();
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    rule(&mut db, "session_summaries", "s.command_count");
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE session_summaries IN ACCESS EXCLUSIVE MODE");
    request(&mut db, "greynoise", &members(100..102));
    wait_until(
        "the worker goes on",
        || (documents(&mut db, "greynoise").len(), state(&mut db)),
        |(stored, _)| *stored == 2,
    );
    assert_eq!(status(&mut db, "greynoise", "dead_letters"), "0");
    holder.run("ROLLBACK");
    wait_for_the_queue(&mut db);
    lab.assert_nothing_crashed();
}
