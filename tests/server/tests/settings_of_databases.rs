//! The owner of a database and a user can set PostgreSQL's settings. No such setting may change a result of the
//! extension. The test covers each value of each enum setting, and settings of other types that change how PostgreSQL
//! reads or writes values.
//!
//! A scenario runs in a database with such settings. Its results are compared with those in a database without
//! settings. Groups of settings are tested together. If a group changes a result, its settings are tested one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use server_tests::cymru::{Lab, member, member6};
use server_tests::database::bare_database;
use server_tests::documentation::grants;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::python_system::{self, PythonSchema, Size};
use server_tests::wait::wait_up_to;
use server_tests::{Database, Options, Session};

/// A setting and a value, as `ALTER DATABASE … SET` takes them.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    name: String,
    value: String,
}

fn setting(name: &str, value: &str) -> Setting {
    Setting { name: name.to_owned(), value: value.to_owned() }
}

/// Settings by which a session tells PostgreSQL to refuse writes, to fire no triggers, or to end its statements.
/// The scenario resets these settings in its own sessions. Processes of the extension must reset them by themselves.
const FOR_SESSIONS: [(&str, &str); 7] = [
    ("default_transaction_read_only", "off"),
    ("session_replication_role", "origin"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("role", "none"),
    (VIEWS, ""),
];

/// With this setting PostgreSQL refuses to read views, so calls that read views fail. An insert must not fail.
const VIEWS: &str = "restrict_nonsystem_relation_kind";

/// How long the test waits for a result of the scenario. The limit is long, because on a busy machine the worker may
/// start an owner process late.
const LIMIT: Duration = Duration::from_secs(120);

/// The results of one scenario, step by step.
struct Scenario {
    results: Vec<String>,
}

impl Scenario {
    fn step(&mut self, session: &mut Session, sql: &str) {
        if let Err(refusal) = session.try_run(sql) {
            let sql: String =
                sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(150).collect();
            self.results.push(format!("{sql}: {} {}", refusal.code, refusal.message));
        }
    }

    fn rows(&mut self, session: &mut Session, sql: &str) {
        let rows = session.try_rows(sql);
        let rows = rows.unwrap_or_else(|refusal| vec![format!("{} {}", refusal.code, refusal.message)]);
        self.results.push(format!("-- {sql}"));
        self.results.extend(rows);
    }

    /// Waits until a query returns no row.
    fn wait(&mut self, session: &mut Session, what: &str, sql: &str) {
        let waited = catch_unwind(AssertUnwindSafe(|| {
            wait_up_to(LIMIT, what, || session.try_rows(sql), |left| left == &Ok(Vec::new()))
        }));
        if waited.is_err() {
            self.results.push(format!("never: {what}"));
        }
    }
}

fn lab(name: &str) -> Lab {
    let lab = Lab::start(Options::named(name).with_worker());
    // Lets table owners reset this setting in their sessions.
    lab.cluster.session("postgres").run("GRANT SET ON PARAMETER session_replication_role TO PUBLIC");
    lab
}

/// Opens a session with the settings of its database. Resets those of [`FOR_SESSIONS`] that are not in `kept`.
fn session_of(db: &Database<'_>, role: &str, kept: &[&str]) -> Session {
    let mut postgres = db.cluster.session("postgres");
    let mut exists =
        |name: &str| postgres.number(&format!("SELECT count(*) FROM pg_settings WHERE name = '{name}'")) == 1;
    let own: Vec<_> = FOR_SESSIONS
        .into_iter()
        .filter(|(name, _)| !kept.contains(name) && (*name == "role" || exists(name)))
        .collect();
    db.cluster.try_session_set(&db.name, role, &own).expect("a session")
}

/// Sessions whose network the mmdb files do not know, but Team Cymru does.
const WAITING: &str = "SELECT id FROM public.sessions WHERE ip ~ '^(60|2a10)' AND snapshot_asn IS NULL
    UNION ALL SELECT session_id FROM public.session_summaries WHERE family(source_ip) = 4 AND snapshot_asn IS NULL";

/// All stored rows, without times of the run.
const STORED: [&str; 10] = [
    "SELECT id, starttime, ip, snapshot_asn, snapshot_country, snapshot_ip_type,
            enrichment_at IS NOT NULL, regexp_replace(enrichment::text, '\"20[2-9][0-9]-[^\"]*\"', 'time', 'g')
     FROM public.sessions ORDER BY id",
    "SELECT session_id, first_event_at, source_ip, snapshot_asn, snapshot_country, snapshot_ip_type,
            enrichment_at IS NOT NULL, regexp_replace(enrichment::text, '\"20[2-9][0-9]-[^\"]*\"', 'time', 'g')
     FROM public.session_summaries ORDER BY session_id",
    "SELECT session_id, source_ip, first_event_at, snapshot_asn, snapshot_country, enrichment IS NULL
     FROM old.session_summaries ORDER BY session_id",
    "SELECT ip_address, current_asn, session_count, first_seen, last_seen, geo_country, ip_types, is_scanner, is_bogon,
            regexp_replace(enrichment::text, '\"20[2-9][0-9]-[^\"]*\"', 'time', 'g')
     FROM enrich.ip_inventory ORDER BY ip_address",
    "SELECT asn_number, organization_name, organization_country, rir_registry, asn_type, is_known_hosting, is_known_vpn,
            unique_ip_count, total_session_count FROM enrich.asn_inventory ORDER BY asn_number",
    "SELECT ip_address, asn_number, verification_source FROM enrich.ip_asn_history ORDER BY 1, 2, 3",
    "SELECT relation, row_key, reason FROM enrich.rejected_row ORDER BY 1, 2, 3",
    "SELECT rel, ip_column, time_column, is_intact, blocked_reason FROM enrich.attached_tables ORDER BY rel::text",
    "SELECT procedure, ended_at IS NOT NULL FROM enrich.procedure_call ORDER BY 1",
    "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger
     WHERE NOT tgisinternal AND tgrelid::regclass::text LIKE '%session%' ORDER BY 1, 2",
];

/// Runs everything that the extension does in a database with these settings.
fn outcome(lab: &Lab, settings: &[Setting]) -> Vec<String> {
    // This session is older than the settings.
    let mut db = bare_database(&lab.cluster);
    for Setting { name, value } in settings {
        let statement = format!("ALTER DATABASE {} SET {name} = {value}", db.name);
        // Some releases lack a setting.
        if let Err(refusal) = db.try_run(&statement) {
            assert!(name == VIEWS && refusal.code == "42704", "{statement}: {refusal:?}");
        }
    }
    let owner = db.create_role("owner");
    let mut steps = Scenario { results: Vec::new() };
    let mut superuser = session_of(&db, "postgres", &[]);
    steps.step(&mut superuser, "CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    if !steps.results.is_empty() {
        return steps.results;
    }
    COWRIE.create(&mut db);
    SUMMARIES.create(&mut db);
    // A time without zone is in the zone of the session.
    db.run("ALTER TABLE public.sessions ALTER starttime TYPE timestamptz");
    db.run(&format!(
        "ALTER TABLE public.sessions OWNER TO {owner}; ALTER TABLE public.session_summaries OWNER TO {owner};
         GRANT CREATE ON SCHEMA public TO {owner}"
    ));
    db.run(&grants("docs/security.md", "honeypot_tables", &owner));
    db.run(&COWRIE.insert(&[
        ("old", Some("8.8.8.8")),
        ("older", Some("48.0.0.1")),
        ("odd", Some("no address")),
    ]));
    db.run(&SUMMARIES.insert(&[("old", Some("2001:4860::1"))]));

    let mut owners = session_of(&db, &owner, &[]);
    for call in [
        "SELECT enrich.attach_session_table('public.sessions', 'ip', 'starttime')",
        "SELECT enrich.attach_session_table('public.session_summaries', 'source_ip', 'first_event_at', true)",
    ] {
        steps.step(&mut owners, call);
    }
    let (unknown, other, ipv6) =
        (member(1, 1).to_string(), member(2, 1).to_string(), member6(1, 1).to_string());
    let mut honeypot = session_of(&db, &owner, &[VIEWS]);
    for statement in [
        COWRIE.insert(&[
            ("a", Some("8.8.8.8")),
            ("b", Some(&unknown)),
            ("c", Some(" 10.0.0.1 ")),
            ("d", Some(&ipv6)),
        ]),
        COWRIE.insert(&[
            ("e", None),
            ("f", Some("::ffff:1.1.1.1")),
            ("g", Some("fe80::1%eth0")),
            ("h", Some("1.1.1.x")),
        ]),
        SUMMARIES.insert(&[
            ("a", Some(&unknown)),
            ("b", Some(&other)),
            ("c", Some("89.160.20.1")),
            ("d", None),
        ]),
        "UPDATE public.sessions SET ip = '1.1.1.1' WHERE id = 'e'".to_owned(),
        "DELETE FROM public.sessions WHERE id = 'f'".to_owned(),
    ] {
        steps.step(&mut honeypot, &statement.replace("INTO session", "INTO public.session"));
    }
    steps.wait(&mut db, "the sessions are complete", WAITING);
    steps.wait(&mut db, "the counts are folded", "SELECT 1 FROM enrich.session_delta");
    steps.rows(&mut db, "SELECT ip_address, session_count FROM enrich.ip_inventory ORDER BY 1");

    // Wrong counts, and snapshots that were lost.
    db.run("UPDATE enrich.ip_inventory SET session_count = 99 WHERE ip_address = '8.8.8.8'");
    for call in [
        "CALL enrich.backfill_sessions('public.sessions')",
        "CALL enrich.backfill_sessions('public.session_summaries')",
        "CALL enrich.add_session_foreign_key('public.session_summaries')",
    ] {
        steps.step(&mut owners, call);
    }
    python_system::create(&mut db, "old", PythonSchema::Orm);
    python_system::fill(&mut db, "old", 7, Size { networks: 5, addresses: 20, sessions: 30 });
    for call in [
        "SELECT enrich.ensure_asn_inventory(64500, 'Example Ltd', 'SE', 'RIPE')",
        "SELECT enrich.enrich_ips('{46.0.0.1,47.0.0.1,8.8.8.8}')",
        "INSERT INTO enrich.known_networks (asn_number, label, asn_type, is_vpn) VALUES (64501, 'Mine', 'HOSTING', true)",
        "CALL enrich.refresh_session_counts()",
        "CALL enrich.import_inventory('old')",
        "CALL enrich.build_asn_inventory()",
        "CALL enrich.refresh_stale()",
        "CALL enrich.fold_statistics()",
    ] {
        steps.step(&mut superuser, call);
    }
    steps.wait(
        &mut db,
        "the queue is empty",
        "SELECT 1 FROM enrich.enrichment_request UNION ALL SELECT 1 FROM enrich.enrichment_job",
    );
    steps.step(&mut superuser, "CALL enrich.fold_statistics()");
    for query in STORED {
        steps.rows(&mut db, query);
    }
    // Queries in a session with the settings.
    for query in [
        "SELECT asn_number, sessions, addresses, countries FROM enrich.campaign_networks('public.sessions') ORDER BY 1, 4",
        "SELECT enrich.ip_country('8.8.8.8'), enrich.bogon_reason('10.0.0.1'), enrich.classify_asn(64501, NULL)",
        "SELECT enrich.lookup_key_of('cymru', '8.8.8.8'), enrich.session_address(' 8.8.8.8 ')",
        "SELECT asn_number, total_session_count FROM enrich.network_activity ORDER BY 2 DESC, 1 LIMIT 5",
        "SELECT count(*) > 100 FROM enrich.enrich_metrics",
        "SELECT jsonb_typeof(enrich.status_json()), enrich.prometheus_metrics() LIKE '# HELP%'",
        "SELECT count(*) FROM enrich.session_index_commands('public.sessions')",
    ] {
        steps.rows(&mut superuser, query);
    }
    steps.rows(
        &mut db,
        "SELECT state <> 'failed', errors FROM enrich.worker_status WHERE database = current_database() AND role = 'worker'",
    );
    steps.step(&mut owners, "SELECT enrich.detach_session_table('public.sessions')");
    steps.step(&mut superuser, "DROP EXTENSION cowrie_enrich CASCADE");
    steps.results
}

/// Compares each group's results with those of a database without settings. Tries the settings of a group that changes a
/// result one by one.
fn compare(lab: &Lab, groups: &[Vec<Setting>]) {
    let expected = outcome(lab, &[]);
    // With more at a time, owner processes would wait for the processor until the worker ends them.
    let mut failed: Vec<_> = groups.chunks(3).flat_map(|some| different(lab, some, &expected)).collect();
    let single: Vec<Vec<Setting>> =
        failed.iter().flat_map(|(group, _)| group.iter()).map(|setting| vec![setting.clone()]).collect();
    for some in single.chunks(3) {
        failed.extend(different(lab, some, &expected));
    }
    let messages: Vec<String> =
        failed.iter().map(|(group, changes)| format!("{group:?}: {changes}")).collect();
    assert!(messages.is_empty(), "{}", messages.join("\n"));
    lab.assert_nothing_crashed();
}

/// The groups with other results than expected, and some of their differences.
fn different(lab: &Lab, groups: &[Vec<Setting>], expected: &[String]) -> Vec<(Vec<Setting>, String)> {
    std::thread::scope(|scope| {
        let running: Vec<_> =
            groups.iter().map(|group| (group, scope.spawn(|| outcome(lab, group)))).collect();
        let ended = running.into_iter().map(|(group, running)| {
            let found = running.join().unwrap_or_else(|_| vec!["the scenario panicked".to_owned()]);
            (group.clone(), differences(expected, &found))
        });
        ended.filter(|(_, differences)| !differences.is_empty()).collect()
    })
}

fn differences(expected: &[String], found: &[String]) -> String {
    let gone =
        expected.iter().filter(|line| !found.contains(line)).take(5).map(|line| format!("\n  - {line}"));
    let new =
        found.iter().filter(|line| !expected.contains(line)).take(9).map(|line| format!("\n  + {line}"));
    new.chain(gone).collect()
}

/// Returns groups of settings. The n-th group has, for each enum setting, the n-th of its values other than the
/// current value.
fn choices(session: &mut Session) -> Vec<Vec<Setting>> {
    let database = session.one("SELECT current_database()");
    let all = session.rows(
        "LOAD 'plpgsql';
         SELECT name, v.value FROM pg_settings
         CROSS JOIN LATERAL unnest(coalesce(enumvals, '{on,off}')) WITH ORDINALITY v(value, n)
         WHERE context IN ('user', 'superuser') AND vartype IN ('bool', 'enum') AND v.value <> setting
         ORDER BY name, n",
    );
    let mut groups: Vec<Vec<Setting>> = Vec::new();
    let (mut last, mut serial) = (String::new(), 0);
    for row in &all {
        let (name, value) = row.split_once('|').expect("two columns");
        if session.try_run(&format!("ALTER DATABASE {database} SET {name} = '{value}'")).is_err() {
            continue;
        }
        serial = if name == last { serial + 1 } else { 0 };
        name.clone_into(&mut last);
        if groups.len() <= serial {
            groups.push(Vec::new());
        }
        groups[serial].push(setting(name, &format!("'{value}'")));
    }
    session.run(&format!("ALTER DATABASE {database} RESET ALL"));
    groups
}

#[test]
fn no_choice_that_a_database_sets_changes_a_result() {
    let lab = lab("choices");
    let groups = choices(&mut lab.database());
    eprintln!("{:?} settings", groups.iter().map(Vec::len).collect::<Vec<_>>());
    compare(&lab, &groups);
}

#[test]
fn no_format_or_limit_that_a_database_sets_changes_a_result() {
    let lab = lab("formats");
    let mut session = lab.database();
    session.run("CREATE ROLE nobodys");
    let groups = [
        vec![
            setting("DateStyle", "'German'"),
            setting("TimeZone", "'Pacific/Kiritimati'"),
            setting("extra_float_digits", "-15"),
            setting("search_path", "''"),
            setting("default_text_search_config", "'german'"),
            setting("timezone_abbreviations", "'India'"),
            setting("client_encoding", "'SQL_ASCII'"),
            setting("plpgsql.extra_errors", "'all'"),
        ],
        vec![
            setting("DateStyle", "'SQL, DMY'"),
            setting("TimeZone", "'America/St_Johns'"),
            setting("extra_float_digits", "3"),
            setting("search_path", "pg_temp, public, pg_catalog"),
            setting("gin_fuzzy_search_limit", "1"),
            setting("parallel_setup_cost", "0"),
            setting("parallel_tuple_cost", "0"),
            setting("min_parallel_table_scan_size", "0"),
            setting("min_parallel_index_scan_size", "0"),
            setting("work_mem", "'64kB'"),
            setting("from_collapse_limit", "1"),
            setting("join_collapse_limit", "1"),
            setting("geqo_threshold", "2"),
            setting("max_stack_depth", "'100kB'"),
            setting(VIEWS, "'view, foreign-table'"),
        ],
        vec![
            setting("statement_timeout", "10"),
            setting("lock_timeout", "1"),
            setting("idle_in_transaction_session_timeout", "1"),
            setting("role", "nobodys"),
        ],
    ];
    compare(&lab, &groups);
}
