//! Measures the cost of inserts into an attached table. Compares the table without a trigger, attached, and
//! with a hand-written trigger.

use std::path::PathBuf;
use std::time::Instant;

use server_tests::database::Database;
use server_tests::recount::assert_counts_are_exact;

use crate::addresses::{Addresses, POOL};
use crate::report::{Aim, Report, median, short};
use crate::{Effort, pgbench};

pub const BARE: &str = "bare";
pub const ATTACHED: &str = "attached";
const NAIVE: &str = "naive";

/// cowrieprocessor's table with its snapshot columns, so that rows are equally wide everywhere.
pub const TABLE: &str = "
    CREATE TABLE {name} (
        session_id text PRIMARY KEY,
        source_ip inet,
        first_event_at timestamptz,
        last_event_at timestamptz,
        event_count int NOT NULL DEFAULT 0,
        command_count int NOT NULL DEFAULT 0,
        login_attempts int NOT NULL DEFAULT 0,
        file_downloads int NOT NULL DEFAULT 0,
        snapshot_asn bigint,
        snapshot_country text,
        snapshot_ip_type text,
        enrichment jsonb,
        enrichment_at timestamptz
    );
    CREATE INDEX ON {name} (first_event_at);";

/// A hand-written trigger: two range lookups and two upserts a row.
const NAIVE_TRIGGER: &str = "
    CREATE TABLE naive_asn_inventory (
        asn_number bigint PRIMARY KEY,
        first_seen timestamptz NOT NULL DEFAULT now(),
        last_seen timestamptz NOT NULL DEFAULT now(),
        total_session_count bigint NOT NULL DEFAULT 0
    );
    CREATE TABLE naive_ip_inventory (
        ip_address inet PRIMARY KEY,
        current_asn bigint REFERENCES naive_asn_inventory,
        country text,
        first_seen timestamptz NOT NULL DEFAULT now(),
        last_seen timestamptz NOT NULL DEFAULT now(),
        session_count bigint NOT NULL DEFAULT 0
    );
    CREATE INDEX ON naive_ip_inventory (current_asn);
    CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        SELECT CASE WHEN NEW.source_ip <= last THEN value END INTO NEW.snapshot_country
        FROM public.country_ranges WHERE first <= NEW.source_ip ORDER BY first DESC LIMIT 1;
        SELECT CASE WHEN NEW.source_ip <= last THEN value::bigint END INTO NEW.snapshot_asn
        FROM public.asn_ranges WHERE first <= NEW.source_ip ORDER BY first DESC LIMIT 1;
        IF NEW.snapshot_asn IS NOT NULL THEN
            INSERT INTO public.naive_asn_inventory AS a (asn_number, total_session_count)
            VALUES (NEW.snapshot_asn, 1)
            ON CONFLICT (asn_number) DO UPDATE
            SET last_seen = now(), total_session_count = a.total_session_count + 1;
        END IF;
        INSERT INTO public.naive_ip_inventory AS i (ip_address, current_asn, country, session_count)
        VALUES (NEW.source_ip, NEW.snapshot_asn, NEW.snapshot_country, 1)
        ON CONFLICT (ip_address) DO UPDATE
        SET last_seen = now(), session_count = i.session_count + 1;
        RETURN NEW;
    END $$;
    CREATE TRIGGER naive BEFORE INSERT ON naive FOR EACH ROW EXECUTE FUNCTION naive();";

pub fn prepare(db: &mut Database<'_>, addresses: &Addresses) {
    eprintln!("inserts: preparing three tables and {POOL} known addresses");
    addresses.store_ranges(db);
    for name in [BARE, ATTACHED, NAIVE] {
        db.run(&TABLE.replace("{name}", name));
    }
    db.run(NAIVE_TRIGGER);
    db.run(
        "SELECT enrich.attach_session_table('attached', 'source_ip', 'first_event_at');
         SELECT count(*) FROM enrich.enrich_ips((SELECT array_agg(ip) FROM public.pool));
         INSERT INTO naive_asn_inventory (asn_number)
             SELECT DISTINCT current_asn FROM enrich.ip_inventory WHERE current_asn IS NOT NULL;
         INSERT INTO naive_ip_inventory (ip_address, current_asn, country)
             SELECT ip_address, current_asn, geo_country FROM enrich.ip_inventory;
         CALL enrich.fold_statistics()",
    );
    db.run("VACUUM (FREEZE, ANALYZE)");
}

/// Prepares the tables for a run: folds pending counts, removes dead rows, and writes dirty pages to disk.
pub fn settle(db: &mut Database<'_>, table: &str) {
    db.run("CALL enrich.fold_statistics()");
    if table == NAIVE {
        db.run("VACUUM naive_asn_inventory");
        db.run("VACUUM naive_ip_inventory");
    } else {
        db.run("VACUUM enrich.session_delta");
        db.run("VACUUM enrich.network_delta");
        db.run("VACUUM enrich.asn_inventory");
        db.run("VACUUM enrich.ip_inventory");
    }
    db.run("CHECKPOINT");
}

struct Run {
    tps: f64,
    failed: u64,
    deadlocks: i64,
}

fn pgbench(db: &mut Database<'_>, table: &str, inserts: usize, clients: u32, seconds: u64) -> Run {
    settle(db, table);
    let script = script(db, table, inserts);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before = db.number(deadlocks);
    let pgbench::Run { tps, failed } = pgbench::run(db, &script, clients, seconds);
    Run { tps, failed, deadlocks: db.number(deadlocks) - before }
}

/// Writes the pgbench script. Keys of sessions are random, so that the keys of two runs do not collide.
pub fn script(db: &mut Database<'_>, table: &str, inserts: usize) -> PathBuf {
    let pool = db.number("SELECT count(*) FROM pool");
    let path = db.cluster.files().join(format!("{table}-{inserts}.sql"));
    let mut text = String::new();
    for i in 0..inserts {
        text.push_str(&format!(
            "\\set n{i} random_zipfian(1, {pool}, 1.05)\n\\set k{i} random(1, 9000000000000000000)\n"
        ));
    }
    let transaction = inserts > 1;
    if transaction {
        text.push_str("BEGIN;\n");
    }
    for i in 0..inserts {
        text.push_str(&format!(
            "INSERT INTO {table} (session_id, source_ip, first_event_at) \
             VALUES (:k{i}, (SELECT ip FROM pool WHERE n = :n{i}), now());\n"
        ));
    }
    if transaction {
        text.push_str("COMMIT;\n");
    }
    std::fs::write(&path, text).expect("the script can be written");
    path
}

/// Runs each variant once. The order of the runs changes from round to round. Returns the results in the order of
/// `variants`.
pub fn round_of<T>(
    variants: &[&'static str],
    round: usize,
    mut run: impl FnMut(&'static str) -> T,
) -> Vec<T> {
    let mut results: Vec<Option<T>> = variants.iter().map(|_| None).collect();
    for step in 0..variants.len() {
        let which = (step + round) % variants.len();
        results[which] = Some(run(variants[which]));
    }
    results.into_iter().flatten().collect()
}

pub fn measure_single(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    for clients in [1, 16] {
        eprintln!("inserts: {clients} clients, {} rounds", effort.rounds);
        let (mut bare, mut attached, mut naive) = (Vec::new(), Vec::new(), Vec::new());
        let mut deadlocks = 0;
        for round in 0..effort.rounds {
            let runs = round_of(&[BARE, ATTACHED, NAIVE], round, |table| {
                pgbench(db, table, 1, clients, effort.seconds)
            });
            bare.push(runs[0].tps);
            attached.push(runs[1].tps);
            naive.push(runs[2].tps);
            deadlocks += runs[1].deadlocks + runs[1].failed as i64;
        }
        assert_eq!(deadlocks, 0, "deadlocks or failed transactions when attached");
        for (what, tps, aim) in
            [("attached", &attached, Aim::AtLeast(0.9)), ("hand-written trigger", &naive, Aim::None)]
        {
            report.ratio(
                &format!("1-row transactions, {clients} clients: {what} / bare"),
                format!("{} / {} tps", short(median(tps)), short(median(&bare))),
                ratios(tps, &bare),
                aim,
                String::new(),
            );
        }
    }
}

pub fn measure_batches(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    eprintln!("batches: 16 clients, {} rounds", effort.rounds);
    let (mut bare, mut attached) = (Vec::new(), Vec::new());
    let (mut deadlocks, mut failed) = (0, 0);
    for round in 0..effort.rounds {
        let runs = round_of(&[BARE, ATTACHED], round, |table| pgbench(db, table, 10, 16, effort.seconds));
        bare.push(runs[0].tps);
        attached.push(runs[1].tps);
        deadlocks += runs[1].deadlocks;
        failed += runs[1].failed;
    }
    report.ratio(
        "10-insert transactions, 16 clients: attached / bare",
        format!("{} / {} tps", short(median(&attached)), short(median(&bare))),
        ratios(&attached, &bare),
        Aim::AtLeast(0.85),
        format!("{failed} failed transactions"),
    );
    report.line(
        "10-insert transactions: deadlocks when attached",
        format!("{} runs of {} s", effort.rounds, effort.seconds),
        vec![deadlocks as f64],
        "",
        Aim::AtMost(0.0),
        String::new(),
    );
    // One run is enough, because hardly any transaction commits.
    let naive = pgbench(db, NAIVE, 10, 16, 2 * effort.seconds);
    report.ratio(
        "10-insert transactions: hand-written trigger / bare",
        format!("{} / {} tps", short(naive.tps), short(median(&bare))),
        vec![naive.tps / median(&bare)],
        Aim::None,
        format!("{} deadlocks", naive.deadlocks),
    );
}

pub fn measure_bulk(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    eprintln!("bulk: 200000 sessions, {} rounds", effort.rounds);
    db.run(&format!(
        "CREATE TABLE bulk AS
         SELECT n, (SELECT ip FROM pool WHERE pool.n = least({POOL}, z.rank)) AS ip
         FROM (SELECT n, 1 + floor({POOL}::float8 ^ random())::int AS rank
               FROM generate_series(1, 200000) n) z;
         ANALYZE bulk"
    ));
    let mut time = |table: &'static str, round: usize, rows: u32| {
        settle(db, table);
        let started = Instant::now();
        db.run(&format!(
            "INSERT INTO {table} (session_id, source_ip, first_event_at)
             SELECT 'bulk-{round}-' || n, ip, now() FROM bulk LIMIT {rows}"
        ));
        started.elapsed().as_secs_f64()
    };
    let (mut bare, mut attached) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let seconds = round_of(&[BARE, ATTACHED], round, |table| time(table, round, 200_000));
        bare.push(seconds[0]);
        attached.push(seconds[1]);
    }
    report.ratio(
        "INSERT … SELECT of 200000: attached / bare, time",
        format!("{} / {} s", short(median(&attached)), short(median(&bare))),
        ratios(&attached, &bare),
        Aim::AtMost(1.9),
        String::new(),
    );
    let bare_few = time(BARE, 1_000, 20_000);
    let naive_few = time(NAIVE, 1_000, 20_000);
    report.ratio(
        "INSERT … SELECT of 20000: hand-written / bare, time",
        format!("{} / {} s", short(naive_few), short(bare_few)),
        vec![naive_few / bare_few],
        Aim::None,
        "worse than linear: 200000 take minutes".to_owned(),
    );
    measure_wide(db, effort, report);
}

/// Measures how long it takes to write the rows of the attached table by hand, with the values that the trigger has computed before.
/// The trigger cannot be faster than this.
fn measure_wide(db: &mut Database<'_>, effort: &Effort, report: &mut Report) {
    db.run(&format!("CREATE TABLE wide AS SELECT * FROM {ATTACHED} WHERE session_id LIKE 'bulk-0-%'"));
    db.run("VACUUM ANALYZE wide");
    let rows = db.number("SELECT count(*) FROM wide");
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let seconds = round_of(&["narrow", "wide"], round, |what| {
            settle(db, BARE);
            let columns = match what {
                "wide" => "snapshot_asn, snapshot_country, snapshot_ip_type, enrichment, enrichment_at",
                _ => "NULL, NULL, NULL, NULL, NULL",
            };
            let started = Instant::now();
            db.run(&format!(
                "INSERT INTO {BARE} (session_id, source_ip, first_event_at, snapshot_asn, snapshot_country,
                                     snapshot_ip_type, enrichment, enrichment_at)
                 SELECT '{what}-{round}-' || session_id, source_ip, now(), {columns} FROM wide"
            ));
            started.elapsed().as_secs_f64()
        });
        narrow.push(seconds[0]);
        wide.push(seconds[1]);
    }
    let bytes = db.number("SELECT avg(pg_column_size(enrichment))::int FROM wide");
    report.ratio(
        &format!("INSERT … SELECT of {rows}: computed snapshots / bare, time"),
        format!("{} / {} s", short(median(&wide)), short(median(&narrow))),
        ratios(&wide, &narrow),
        Aim::None,
        format!("no trigger; documents of {bytes} bytes on average"),
    );
}

/// Checks that all measured sessions were counted.
pub fn check_counts(db: &mut Database<'_>) {
    assert_counts_are_exact(db, &[(ATTACHED, "source_ip")]);
    eprintln!("counts of {} sessions equal a recount", db.number("SELECT count(*) FROM attached"));
}

/// Returns the ratio of each round.
pub fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(a, b)| a / b).collect()
}
