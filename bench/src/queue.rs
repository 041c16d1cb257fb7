//! A million requests on their way through the queue, by the statements that the worker runs: does a batch cost at the
//! end what it costs at the beginning?

use std::fmt::Write;
use std::time::Instant;

use server_tests::database::{fresh_database, make_template};
use server_tests::{Cluster, Options, Session};

use crate::report::{Aim, Report, median, short};

const REQUESTS: usize = 1_000_000;
/// Requests that one transaction takes in, and jobs that one claims: what the worker does.
const TAKE_IN: usize = 10_000;
const CLAIM: usize = 500;
/// Lease in seconds, its holder, lifetimes of answers in seconds.
const LEASE: (u32, u32) = (120, 1);
const LIFETIMES: (u32, u32) = (7_776_000, 604_800);

/// Name, types of the parameters, text.
const STATEMENTS: [(&str, &str, &str); 6] = [
    ("take_in", "bigint, float8, bigint, int, int", include_str!("../../sql/queries/queue_take_in.sql")),
    ("claim", "text, bigint, float8, bigint, int, int", include_str!("../../sql/queries/jobs_claim.sql")),
    ("hold", "text, cidr[], bigint", include_str!("../../sql/queries/jobs_hold.sql")),
    (
        "keep",
        "cidr[], bigint[], text[], text[], jsonb[], timestamptz",
        include_str!("../../sql/queries/answers_keep.sql"),
    ),
    ("done", "text, inet[]", include_str!("../../sql/queries/jobs_done.sql")),
    ("settle", "text, cidr[], cidr[]", include_str!("../../sql/queries/jobs_settle.sql")),
];

pub fn measure(report: &mut Report) {
    eprintln!("queue: {REQUESTS} requests");
    let cluster = Cluster::start(
        &Options::named("bench-queue").durable().conf("shared_buffers = 1GB").conf("max_wal_size = 4GB"),
    );
    make_template(&cluster);
    let mut db = fresh_database(&cluster);
    // Distinct /24s, in no order, as attackers come.
    db.run(&format!(
        "SELECT setseed(0.42);
         INSERT INTO enrichment_request (ip_address, provider)
         SELECT ip, 'cymru'
         FROM (SELECT '1.0.0.0'::inet + 256 * n + 1 + n % 254 AS ip FROM generate_series(0, 126 * 65536 - 1, 8) n) blocks
         WHERE NOT is_bogon(ip)
         ORDER BY random()
         LIMIT {REQUESTS}"
    ));
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), REQUESTS as i64);
    let mut worker = db.another();
    for (name, types, text) in STATEMENTS {
        worker.run(&format!("PREPARE {name} ({types}) AS {}", text.replace("@extschema@", "enrich")));
    }

    let (lease, lifetimes) =
        (format!("{}, {}", LEASE.0, LEASE.1), format!("{}, {}", LIFETIMES.0, LIFETIMES.1));
    let take_in = format!("EXECUTE take_in ({TAKE_IN}, {lease}, {lifetimes})");
    let mut taking = Vec::new();
    for _ in 0..REQUESTS / TAKE_IN {
        let (seconds, rows) = timed(&mut worker, &take_in);
        assert_eq!(rows, [format!("{TAKE_IN}|NULL")]);
        taking.push(seconds);
    }

    let claim = format!("EXECUTE claim ('cymru', {CLAIM}, {lease}, {lifetimes})");
    let (mut claiming, mut finishing) = (Vec::new(), Vec::new());
    explain(&mut worker, &claim);
    for batch in 0..REQUESTS / CLAIM {
        if batch == REQUESTS / CLAIM - 1 {
            explain(&mut worker, &claim);
        }
        let (seconds, rows) = timed(&mut worker, &claim);
        claiming.push(seconds);
        finishing.push(timed(&mut worker, &finish(&rows)).0);
    }
    assert_eq!(
        worker.rows("SELECT requested, jobs, addresses FROM queue_status WHERE provider = 'cymru'"),
        ["0|0|0"]
    );
    assert_eq!(worker.number("SELECT count(*) FROM cymru_answer"), REQUESTS as i64);

    let vacuums = "SELECT string_agg(relname || ' ' || autovacuum_count, ', ' ORDER BY relname) FROM pg_stat_user_tables
        WHERE relname IN ('enrichment_job', 'enrichment_request', 'job_address')";
    let note = format!("autovacuum runs: {}", worker.one(vacuums));
    for (what, seconds, aim, note) in [
        (format!("taking in {TAKE_IN}"), &taking, Aim::AtMost(2.0), String::new()),
        (format!("claiming {CLAIM}"), &claiming, Aim::AtMost(2.0), note),
        (format!("finishing {CLAIM}"), &finishing, Aim::AtMost(2.0), "answers kept, jobs ended".to_owned()),
    ] {
        let tenth = seconds.len() / 10;
        let (first, last) = (median(&seconds[..tenth]), median(&seconds[seconds.len() - tenth..]));
        report.ratio(
            &format!("queue: {what} of {REQUESTS}, last tenth / first"),
            format!("{} / {} ms", short(last * 1e3), short(first * 1e3)),
            vec![last / first],
            aim,
            note,
        );
    }
}

/// What ends a batch: what the worker does, without the inventories.
fn finish(claimed: &[String]) -> String {
    assert_eq!(claimed.len(), CLAIM);
    let (mut questions, mut addresses) = (Vec::new(), Vec::new());
    for row in claimed {
        let (question, address) = row.split_once('|').expect("two columns");
        assert_ne!(address, "NULL", "an address to ask about");
        questions.push(question);
        addresses.push(address);
    }
    let (questions, addresses) = (questions.join(","), addresses.join(","));
    let of_each = |value: &str| format!("array_fill({value}, ARRAY[{CLAIM}])");
    let mut sql = String::new();
    write!(
        sql,
        "BEGIN;
         EXECUTE hold ('cymru', '{{{questions}}}', {holder});
         EXECUTE keep ('{{{questions}}}', {asn}, {country}, {registry}, {document}, now());
         EXECUTE done ('cymru', '{{{addresses}}}');
         EXECUTE settle ('cymru', '{{{questions}}}', '{{}}');
         COMMIT",
        holder = LEASE.1,
        asn = of_each("64500::bigint"),
        country = of_each("'DE'::text"),
        registry = of_each("'RIPE'::text"),
        document = of_each(r#"'{"cymru": {"asn": 64500, "asn_org": "EXAMPLE, DE"}}'::jsonb"#),
    )
    .expect("a string can be written to");
    sql
}

fn timed(session: &mut Session, sql: &str) -> (f64, Vec<String>) {
    let started = Instant::now();
    let rows = session.rows(sql);
    (started.elapsed().as_secs_f64(), rows)
}

/// With EXPLAIN=1: how a statement runs at this moment. It is rolled back.
fn explain(session: &mut Session, sql: &str) {
    if std::env::var_os("EXPLAIN").is_some() {
        session.run("BEGIN");
        for line in session.rows(&format!("EXPLAIN (ANALYZE, BUFFERS) {sql}")) {
            eprintln!("    {line}");
        }
        session.run("ROLLBACK");
    }
}
