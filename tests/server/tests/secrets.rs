//! Searches all places for a key: while it is used, after it was refused, and after a crash, with the log at its most
//! detailed level.

use std::fs;
use std::path::Path;
use std::process::Command;

use cowrie_enrich_upstreams::{Collector, HttpFault};
use server_tests::cymru::member;
use server_tests::http::{GREYNOISE_KEY, Lab, Plan, SPUR_TOKEN, request, status};
use server_tests::installation::installation;
use server_tests::scrape::{free_address, wait_for_metrics};
use server_tests::{Session, wait_until};

/// A part of a key counts as a key.
const KEYS: [&str; 2] = [GREYNOISE_KEY, SPUR_TOKEN];

fn holds_a_key(bytes: &[u8]) -> bool {
    KEYS.iter().any(|key| {
        let half = &key.as_bytes()[..10];
        bytes.windows(half.len()).any(|window| window == half)
    })
}

/// Returns the files below a directory that contain a key, except the key files.
fn files_with_keys(directory: &Path) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "-a", "-F", "--exclude=*.key"]);
    for key in KEYS {
        grep.args(["-e", &key[..10]]);
    }
    // Files are created and removed meanwhile. The errors of grep about them are ignored.
    let output = grep.arg(directory).output().expect("grep runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Returns all rows of views and tables in which the server shows its state.
fn shown_by_sql(session: &mut Session) -> Vec<String> {
    let mut tables = session.rows(
        "SELECT c.oid::regclass::text FROM pg_class c
         WHERE relkind IN ('r', 'v', 'm') AND relnamespace = 'enrich'::regnamespace",
    );
    tables.extend(
        [
            "pg_settings",
            "pg_file_settings",
            "pg_stat_activity",
            "pg_db_role_setting",
            "pg_shseclabel",
            "pg_parameter_acl",
            "pg_shmem_allocations",
            "pg_backend_memory_contexts",
            "pg_prepared_statements",
            "pg_stat_replication",
            "enrich.prometheus_metrics()",
            "enrich.status_json()",
            "enrich.mmdb_status()",
            "enrich.enrich_stats()",
        ]
        .map(str::to_owned),
    );
    tables
        .into_iter()
        .filter(|table| {
            session
                .rows(&format!("SELECT x::text FROM {table} x"))
                .iter()
                .any(|row| holds_a_key(row.as_bytes()))
        })
        .collect()
}

/// Returns command lines and environments of the server's processes that contain a key.
fn processes_with_keys(session: &mut Session, postmaster: u32) -> Vec<String> {
    let mut pids = session.rows("SELECT pid FROM pg_stat_activity");
    pids.push(postmaster.to_string());
    let mut found = Vec::new();
    for pid in pids {
        for what in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{what}");
            if fs::read(&path).is_ok_and(|bytes| holds_a_key(&bytes)) {
                found.push(path);
            }
        }
    }
    found
}

#[track_caller]
fn assert_no_key_anywhere(lab: &Lab, session: &mut Session, collector: &Collector, what: &str) {
    let mut found = shown_by_sql(session);
    found.extend(files_with_keys(lab.cluster.files()));
    found.extend(processes_with_keys(session, lab.cluster.postmaster_pid()));
    let log = lab.cluster.whole_log();
    found.extend(log.lines().filter(|line| holds_a_key(line.as_bytes())).map(|line| format!("log: {line}")));
    if holds_a_key(format!("{:?}", collector.requests()).as_bytes()) {
        found.push("the collector was sent it".to_owned());
    }
    for arguments in [vec!["pg_dumpall"], vec!["pg_dump", "-d", "postgres"]] {
        let output = lab.cluster.program(arguments[0]).args(&arguments[1..]).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if holds_a_key(&output.stdout) || holds_a_key(&output.stderr) {
            found.push(arguments.join(" "));
        }
    }
    assert!(found.is_empty(), "{what}: {found:#?}");
}

#[test]
fn a_key_is_in_its_file_and_in_requests_and_nowhere_else() {
    let collector = Collector::start();
    let scraped = free_address();
    let plan = Plan::of("secrets", "maxmind,greynoise,spur").with(&format!("metrics_listen = '{scraped}'"));
    let plan = plan.with(&format!("otlp_endpoint = '{}'", collector.url())).with("otlp_interval = 200ms");
    let plan = plan.with("otlp_sample_ratio = 1").with("max_attempts = 1").options(|options| {
        options
            .conf("log_min_messages = debug5")
            .conf("log_min_error_statement = debug5")
            .conf("log_statement = all")
            .conf("log_error_verbosity = verbose")
            .conf("track_activity_query_size = 16kB")
            .conf("debug_print_plan = on")
            .conf("log_parser_stats = on")
            .conf("fsync = off")
    });
    let lab = plan.start();
    let mut db = lab.database();
    let status_dir = lab.cluster.files().join("status");
    fs::create_dir(&status_dir).expect("own directory");
    installation().give_to_server(&status_dir);
    lab.reconfigure(&[&format!("status_file = '{}'", status_dir.join("status.json").display())]);

    // The key is used.
    request(&mut db, "greynoise", &[member(1, 7)]);
    request(&mut db, "spur", &[member(1, 7)]);
    wait_until(
        "both have answered",
        || ["greynoise", "spur"].map(|provider| status(&mut db, provider, "answers + absent > 0")),
        |answered| *answered == ["t", "t"],
    );
    let scrape = wait_for_metrics(scraped);
    assert!(!holds_a_key(scrape.body.as_bytes()) && !holds_a_key(scrape.head.as_bytes()));
    assert_no_key_anywhere(&lab, &mut db, &collector, "in use");

    // The key is refused, and the provider repeats it.
    for provider in ["greynoise", "spur"] {
        lab.server(provider).behave(HttpFault::Echo);
        request(&mut db, provider, &[member(2, 7)]);
        wait_until(
            "it has refused the key",
            || status(&mut db, provider, "unauthorized > 0 AND last_error IS NOT NULL"),
            |refused| refused == "t",
        );
    }
    assert_no_key_anywhere(&lab, &mut db, &collector, "refused");

    // The key is in the memory of a worker that crashes.
    request(&mut db, "greynoise", &[member(3, 7)]);
    let worker = db.number(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich worker' AND datname = current_database()",
    );
    lab.cluster.kill_backend(worker);
    let mut session = lab.cluster.session(&db.name);
    assert_no_key_anywhere(&lab, &mut session, &collector, "crashed");
    assert!(lab.cluster.whole_log().contains("DEBUG"), "the log was not as talkative as it can be");
    // The search finds a key that is stored on purpose.
    session.run(&format!("CREATE TABLE leak AS SELECT '{GREYNOISE_KEY}'::text AS key; CHECKPOINT"));
    assert_ne!(files_with_keys(lab.cluster.files()), [""; 0], "a key in a table was not found");
    assert_ne!(files_with_keys(&lab.cluster.data_dir()), [""; 0]);
}
