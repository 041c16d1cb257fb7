//! Measures what sessions write into the inventories: many new addresses at once, the fold of their counts, and COPY by
//! several connections. Each size is measured at a tenth too, so that a cost that
//! grows faster than the number of sessions is seen.

use std::net::Ipv4Addr;
use std::time::Instant;

use server_tests::database::{Database, fresh_database};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Session};

use crate::Effort;
use crate::addresses::{Addresses, POOL, lines};
use crate::inserts::{ATTACHED, BARE, ratios, round_of};
use crate::report::{Aim, Report, median, short};

const TABLE: &str = "
    CREATE TABLE {name} (session_id text PRIMARY KEY, source_ip inet, first_event_at timestamptz);
    CREATE INDEX ON {name} (first_event_at);";
const TABLES: [&str; 2] = [BARE, ATTACHED];

const CONNECTIONS: usize = 4;
/// Known addresses whose counts the measurement of HOT updates folds, several times.
const FOLDED: i64 = 20_000;

pub fn measure(cluster: &Cluster, addresses: &Addresses, effort: &Effort, report: &mut Report) {
    for count in [POOL / 10, POOL] {
        measure_new(cluster, &addresses.pool[..count], effort, report);
    }
    for sessions in [100_000, 1_000_000] {
        measure_copy(cluster, &addresses.pool, sessions, effort, report);
    }
}

fn database<'a>(cluster: &'a Cluster, addresses: &[Ipv4Addr]) -> Database<'a> {
    let mut db = fresh_database(cluster);
    for name in TABLES {
        db.run(&TABLE.replace("{name}", name));
    }
    db.run(
        "SELECT enrich.attach_session_table('attached', 'source_ip', 'first_event_at');
         CREATE TABLE source (n serial, ip inet NOT NULL)",
    );
    db.copy("source (ip)", &lines(addresses));
    db.run("VACUUM ANALYZE source");
    db
}

/// Returns the seconds that a statement takes.
fn seconds(db: &mut Session, statement: &str) -> f64 {
    db.run("CHECKPOINT");
    let started = Instant::now();
    db.run(statement);
    started.elapsed().as_secs_f64()
}

fn measure_new(cluster: &Cluster, addresses: &[Ipv4Addr], effort: &Effort, report: &mut Report) {
    let count = addresses.len();
    eprintln!("growth: {count} new addresses, {} rounds", effort.rounds);
    let (mut bares, mut attacheds, mut folds, mut hot) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let mut db = database(cluster, addresses);
        let mut insert = |table: &'static str| {
            seconds(&mut db, &format!("INSERT INTO {table} SELECT 's' || n, ip, now() FROM source"))
        };
        let inserted = round_of(&TABLES, round, &mut insert);
        let fold = seconds(&mut db, "CALL enrich.fold_statistics()");
        bares.push(inserted[0]);
        attacheds.push(inserted[1]);
        folds.push(fold);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), count as i64);
        hot.push(hot_percent(&mut db));
        assert_counts_are_exact(&mut db, &[("attached", "source_ip")]);
    }
    let absolute = |above: &[f64]| format!("{} / {} s", short(median(above)), short(median(&bares)));
    let [insert_aim, fold_aim] =
        if count == POOL { [6.0, 12.0].map(Aim::AtMost) } else { [Aim::None, Aim::None] };
    report.ratio(
        &format!("INSERT … SELECT of {count} new addresses: attached / bare"),
        absolute(&attacheds),
        ratios(&attacheds, &bares),
        insert_aim,
        "all addresses are different".to_owned(),
    );
    report.ratio(
        &format!("fold of {count} new addresses / bare INSERT"),
        absolute(&folds),
        ratios(&folds, &bares),
        fold_aim,
        String::new(),
    );
    report.line(
        &format!("updates of ip_inventory by folds that are HOT, {count} rows"),
        format!("folds of {FOLDED} counts"),
        hot,
        " %",
        Aim::AtLeast(50.0),
        "autovacuum may run between the folds".to_owned(),
    );
}

/// Folds counts of some addresses again and again. Returns how many of the updates were HOT, in percent.
fn hot_percent(db: &mut Session) -> f64 {
    const UPDATES: &str =
        "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'enrich.ip_inventory'::regclass";
    const HOT: &str =
        "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'enrich.ip_inventory'::regclass";
    let read = |db: &mut Session| {
        db.run("SELECT pg_stat_force_next_flush()");
        (db.number(UPDATES), db.number(HOT))
    };
    let before = read(db);
    for again in 0..3 {
        db.run(&format!(
            "INSERT INTO attached SELECT 'again{again}-' || n, ip, now() FROM source ORDER BY hashint4(n) LIMIT {FOLDED}"
        ));
        db.run("CALL enrich.fold_statistics()");
    }
    let after = read(db);
    100.0 * (after.1 - before.1) as f64 / (after.0 - before.0) as f64
}

fn measure_copy(
    cluster: &Cluster,
    addresses: &[Ipv4Addr],
    sessions: usize,
    effort: &Effort,
    report: &mut Report,
) {
    eprintln!("growth: COPY of {sessions} sessions by {CONNECTIONS} connections, {} rounds", effort.rounds);
    let (mut bares, mut attacheds) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let mut db = database(cluster, &[]);
        let mut copy = |table: &'static str| {
            db.run("CHECKPOINT");
            let started = Instant::now();
            std::thread::scope(|scope| {
                for connection in 0..CONNECTIONS {
                    let mut session = db.another();
                    scope.spawn(move || {
                        // Each connection loads the log of another period. The sessions of an address are close in time.
                        let own = sessions / CONNECTIONS / 6;
                        let rows: String = (0..sessions / CONNECTIONS)
                            .map(|n| {
                                let nearby = (n / 6 + n * 7_919 % 500) % own;
                                let address = addresses[connection * own + nearby];
                                format!("{connection}-{n}\t{address}\t2024-05-01 12:00\n")
                            })
                            .collect();
                        session.copy(&format!("{table} (session_id, source_ip, first_event_at)"), &rows);
                    });
                }
            });
            started.elapsed().as_secs_f64()
        };
        let copied = round_of(&TABLES, round, &mut copy);
        bares.push(copied[0]);
        attacheds.push(copied[1]);
        db.run("CALL enrich.fold_statistics()");
        assert_counts_are_exact(&mut db, &[("attached", "source_ip")]);
    }
    report.ratio(
        &format!("COPY of {sessions} sessions by {CONNECTIONS} connections: attached / bare"),
        format!("{} / {} s", short(median(&attacheds)), short(median(&bares))),
        ratios(&attacheds, &bares),
        if sessions == 1_000_000 { Aim::AtMost(1.9) } else { Aim::None },
        format!("{} new addresses", sessions / 6),
    );
}
