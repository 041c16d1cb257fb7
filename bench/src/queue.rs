//! Measures a million requests in the queue. Runs the worker's statements, and compares the cost of the last batches
//! with the cost of the first batches.
//!
//! The database has been in use before the million. Its tables were analysed while they were almost empty, and the
//! worker's plans were made then. Afterwards only autovacuum runs VACUUM and ANALYZE.

use std::time::Instant;

use server_tests::database::{fresh_database, make_template};
use server_tests::{Cluster, Options, Session};

use crate::report::{Aim, Report, median, short};

const REQUESTS: usize = 1_000_000;
/// Number of requests that one transaction turns into jobs. The next constant is the number of jobs that the worker
/// claims at once. Both are as in the worker.
const MOST_REQUESTS: usize = 10_000;
const CLAIM: usize = 500;
/// Number of small batches before the million. After fewer executions, the server would not keep a plan yet.
const DAYS_BEFORE: usize = 8;
const FEW: usize = 30;
/// The duration of a lease in seconds, and the id of the worker that holds it. The next constant has the lifetimes of
/// answers in seconds.
const LEASE: (u32, u32) = (120, 1);
const LIFETIMES: (u32, u32) = (7_776_000, 604_800);

/// Name, types of the parameters, text.
const STATEMENTS: [(&str, &str, &str); 7] = [
    (
        "create_jobs",
        "bigint, float8, bigint, text[], bool[], int[], int[], bool[]",
        include_str!("../../sql/queries/queue/jobs_create.sql"),
    ),
    (
        "claim",
        "text, bigint, float8, bigint, int, int, bool, bool, bool",
        include_str!("../../sql/queries/queue/jobs_claim.sql"),
    ),
    ("hold", "text, text[], bigint", include_str!("../../sql/queries/queue/jobs_hold.sql")),
    (
        "keep",
        "text, cidr[], bigint[], text[], text[], text[], jsonb[], bool[], timestamptz",
        include_str!("../../sql/queries/queue/answers_keep.sql"),
    ),
    (
        "waited_for",
        "text, text[], int, int, inet, bigint",
        include_str!("../../sql/queries/queue/answers_waited_for.sql"),
    ),
    ("done", "text, inet[]", include_str!("../../sql/queries/queue/jobs_done.sql")),
    ("settle", "text, text[], text[], float8", include_str!("../../sql/queries/queue/jobs_finish.sql")),
];

pub fn measure(report: &mut Report) {
    eprintln!("queue: {REQUESTS} requests");
    let cluster = Cluster::start(
        &Options::named("bench-queue").durable().conf("shared_buffers = 1GB").conf("max_wal_size = 4GB"),
    );
    make_template(&cluster);
    let mut db = fresh_database(&cluster);
    let mut worker = db.another();
    // The worker's process has the same settings (src/pg/background.rs).
    worker.run("SET plan_cache_mode = force_custom_plan; SET jit = off");
    for (name, types, text) in STATEMENTS {
        worker.run(&format!("PREPARE {name} ({types}) AS {}", text.replace("@extschema@", "enrich")));
    }

    let (lease, lifetimes) =
        (format!("{}, {}", LEASE.0, LEASE.1), format!("{}, {}", LIFETIMES.0, LIFETIMES.1));
    let create_jobs = format!(
        "EXECUTE create_jobs ({MOST_REQUESTS}, {lease}, '{{cymru}}', '{{t}}', '{{{}}}', '{{{}}}', '{{t}}')",
        LIFETIMES.0, LIFETIMES.1
    );
    let claim = format!("EXECUTE claim ('cymru', {CLAIM}, {lease}, {lifetimes}, true, false, true)");

    for day in 0..DAYS_BEFORE {
        request(&mut db, "200.0.0.0", day * FEW, FEW);
        worker.run(&create_jobs);
        let claimed = worker.rows(&claim);
        assert_eq!(claimed.len(), FEW);
        worker.run(&transaction(&finish(&claimed)));
        for table in ["enrichment_request", "enrichment_job", "job_address", "block_answer"] {
            db.run(&format!("VACUUM (ANALYZE) enrich.{table}"));
        }
        // The worker's queries between two steps.
        worker.run(&create_jobs);
        worker.run(&claim);
    }
    request(&mut db, "1.0.0.0", 0, REQUESTS);

    let mut taking = Vec::new();
    for batch in 0..REQUESTS / MOST_REQUESTS {
        if is_explained(batch, REQUESTS / MOST_REQUESTS) {
            explain(&mut worker, &create_jobs);
        }
        let (seconds, rows) = timed(&mut worker, &format!("BEGIN; {create_jobs}"));
        assert_eq!(rows, [format!("{MOST_REQUESTS}|cymru|NULL")]);
        let (analysing, _) = timed(
            &mut worker,
            &format!(
                "{}; COMMIT",
                include_str!("../../sql/queries/queue/queue_analyze.sql").replace("@extschema@", "enrich")
            ),
        );
        let seconds = seconds + analysing;
        taking.push(seconds);
    }

    let (mut claiming, mut finishing) = (Vec::new(), Vec::new());
    for batch in 0..REQUESTS / CLAIM {
        let is_explained = is_explained(batch, REQUESTS / CLAIM);
        if is_explained {
            explain(&mut worker, &claim);
        }
        let (seconds, rows) = timed(&mut worker, &claim);
        assert_eq!(rows.len(), CLAIM);
        claiming.push(seconds);
        let finish = finish(&rows);
        if is_explained {
            finish.iter().for_each(|statement| explain(&mut worker, statement));
        }
        finishing.push(timed(&mut worker, &transaction(&finish)).0);
    }
    assert_eq!(
        worker.rows("SELECT requested, jobs, addresses FROM queue_status WHERE provider = 'cymru'"),
        ["0|0|0"]
    );
    assert_eq!(worker.number("SELECT count(*) FROM block_answer"), (REQUESTS + DAYS_BEFORE * FEW) as i64);

    let vacuums = "SELECT string_agg(relname || ' ' || autovacuum_count, ', ' ORDER BY relname) FROM pg_stat_user_tables
        WHERE relname IN ('enrichment_job', 'enrichment_request', 'job_address')";
    let vacuums = format!("autovacuum runs: {}", worker.one(vacuums));
    for (what, seconds) in [
        (format!("jobs from {MOST_REQUESTS} requests"), &taking),
        (format!("claiming {CLAIM}"), &claiming),
        (format!("finishing {CLAIM}"), &finishing),
    ] {
        let tenths: Vec<&[f64]> = seconds.chunks(seconds.len() / 10).collect();
        let (first, last) = (median(tenths[0]), median(tenths[tenths.len() - 1]));
        report.ratio(
            &format!("queue: {what} of {REQUESTS}, last tenth / first"),
            format!("{} / {} ms", short(last * 1e3), short(first * 1e3)),
            vec![last / first],
            Aim::AtMost(2.0),
            "medians".to_owned(),
        );
        // Uses means, because a median would hide a plan that is bad only for a while.
        let means = || tenths.iter().map(|tenth| tenth.iter().sum::<f64>() / tenth.len() as f64);
        let (slowest, fastest) = (means().fold(f64::MIN, f64::max), means().fold(f64::MAX, f64::min));
        let worst = seconds.iter().copied().fold(f64::MIN, f64::max);
        report.ratio(
            &format!("queue: {what} of {REQUESTS}, slowest tenth / fastest"),
            format!("{} / {} ms", short(slowest * 1e3), short(fastest * 1e3)),
            vec![slowest / fastest],
            Aim::AtMost(3.0),
            format!("means; slowest batch {} ms; {vacuums}", short(worst * 1e3)),
        );
    }
}

/// Queues this number of addresses from `first` on, each in a separate /24, in random order.
fn request(db: &mut Session, first: &str, skip: usize, count: usize) {
    // Uses every eighth /24. Generates more addresses than needed, because some are not public.
    let numbers = format!("generate_series({}, {}, 8)", 8 * skip, 8 * (skip + count + count / 50 + 10_000));
    db.run(&format!(
        "SELECT setseed(0.42);
         INSERT INTO enrichment_request (ip_address, provider)
         SELECT ip, 'cymru'
         FROM (
             SELECT ip
             FROM (SELECT '{first}'::inet + 256::bigint * n + 1 + n % 254 AS ip FROM {numbers} n) every
             WHERE NOT is_bogon(ip)
             ORDER BY ip
             LIMIT {count}
         ) public
         ORDER BY random()"
    ));
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), count as i64);
}

/// Returns the worker's statements at the end of a batch. Leaves out the statements on the inventories.
fn finish(claimed: &[String]) -> Vec<String> {
    let (mut lookup_keys, mut addresses) = (Vec::new(), Vec::new());
    for row in claimed {
        let (lookup_key, address) = row.split_once('|').expect("two columns");
        assert_ne!(address, "NULL", "an address to ask about");
        lookup_keys.push(lookup_key);
        addresses.push(address);
    }
    let (lookup_keys, addresses) = (lookup_keys.join(","), addresses.join(","));
    let of_each = |value: &str| format!("array_fill({value}, ARRAY[{}])", claimed.len());
    vec![
        format!("EXECUTE hold ('cymru', '{{{lookup_keys}}}', {})", LEASE.1),
        format!(
            "EXECUTE keep ('cymru', '{{{lookup_keys}}}', {}, {}, {}, {}, {}, {}, now())",
            of_each("64500::bigint"),
            of_each("'EXAMPLE, DE'::text"),
            of_each("'DE'::text"),
            of_each("'RIPE'::text"),
            of_each(r#"'{"cymru": {"asn": 64500, "asn_org": "EXAMPLE, DE"}}'::jsonb"#),
            of_each("false"),
        ),
        format!(
            "EXECUTE waited_for ('cymru', '{{{lookup_keys}}}', {}, {}, NULL, 5000)",
            LIFETIMES.0, LIFETIMES.1
        ),
        format!("EXECUTE done ('cymru', '{{{addresses}}}')"),
        format!("EXECUTE settle ('cymru', '{{{lookup_keys}}}', '{{}}', 1)"),
    ]
}

fn transaction(statements: &[String]) -> String {
    format!("BEGIN; {}; COMMIT", statements.join(";\n"))
}

fn timed(session: &mut Session, sql: &str) -> (f64, Vec<String>) {
    let started = Instant::now();
    let rows = session.rows(sql);
    (started.elapsed().as_secs_f64(), rows)
}

/// Returns true for the first and the last batch if EXPLAIN is set in the environment.
fn is_explained(batch: usize, batches: usize) -> bool {
    (batch == 0 || batch == batches - 1) && std::env::var_os("EXPLAIN").is_some()
}

/// Runs a statement with EXPLAIN ANALYZE, prints the plan, and rolls the statement back.
fn explain(session: &mut Session, sql: &str) {
    session.run("BEGIN");
    eprintln!("  {}", &sql[..sql.len().min(40)]);
    for line in session.rows(&format!("EXPLAIN (ANALYZE, BUFFERS) {sql}")) {
        // The plan contains lists of five hundred values.
        eprintln!("    {}", line.chars().take(200).collect::<String>());
    }
    session.run("ROLLBACK");
}
