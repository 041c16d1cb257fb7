//! Measures what the extension costs in a Citus cluster of three servers on this machine: inserts of 16 clients and a large
//! `INSERT … SELECT`, each compared with the same distributed table without the extension. Needs `CITUS_PG_CONFIG`, see
//! `scripts/citus-tests`.

use std::time::Instant;

use server_tests::Database;
use server_tests::citus::{CitusCluster, DATABASE, three_nodes};
use server_tests::hosts::COWRIE;

use crate::inserts::{ratios, round_of};
use crate::report::{Aim, Report, median, short};
use crate::{Effort, pgbench};

const CLIENTS: u32 = 16;
/// The same table without the extension.
const BARE: &str = "bare";
const SESSIONS: &str = "sessions";

pub fn measure(effort: &Effort, report: &mut Report) {
    // Each wait for a lock that is longer than deadlock_timeout is logged.
    let change = |options: server_tests::Options| {
        options
            .conf("cowrie_enrich.enabled_sources = 'maxmind'")
            .conf("log_lock_waits = on")
            .conf("deadlock_timeout = 20ms")
            .conf("shared_buffers = 256MB")
    };
    let Some(cluster) = three_nodes("bench-citus", change) else { return };
    let mut session = cluster.session();
    COWRIE.create(&mut session);
    session.run(&format!(
        "CREATE TABLE {BARE} (LIKE sessions INCLUDING ALL);
         SELECT create_distributed_table('sessions', 'id');
         SELECT create_distributed_table('{BARE}', 'id', colocate_with => 'sessions')"
    ));
    COWRIE.attach(&mut session);
    session.run("SELECT enrich.distribute_inventories()");
    for rows in [1, 10] {
        clients(&cluster, rows, effort, report);
    }
    insert_select(&cluster, effort, report);
    cluster.wait_until_folded();
    let counted = session.number("SELECT sum(session_count)::bigint FROM enrich.ip_inventory");
    assert_eq!(counted, session.number("SELECT count(*) FROM sessions"), "the counts are exact");
}

/// Number of logged waits for a lock on all nodes.
fn lock_waits(cluster: &CitusCluster) -> usize {
    cluster.nodes.iter().map(|node| node.whole_log().matches("still waiting for").count()).sum()
}

fn clients(cluster: &CitusCluster, rows: u64, effort: &Effort, report: &mut Report) {
    let db = Database::reconnected(&cluster.nodes[0], DATABASE);
    let script = |table: &str| {
        let insert = format!(
            "\\set n random(1, 9000000000000000)\n\\set a random(0, 255)\n\\set b random(1, 254)\n\
             INSERT INTO {table} (id, starttime, ip) VALUES (:n || '-' || :client_id, now(), '23.' || :a || '.1.' || :b);\n"
        );
        let path = cluster.nodes[0].files().join(format!("{table}-{rows}.sql"));
        let text =
            if rows == 1 { insert } else { format!("BEGIN;\n{}COMMIT;\n", insert.repeat(rows as usize)) };
        std::fs::write(&path, text).expect("the script can be written");
        path
    };
    let (bare, enriched) = (script(BARE), script(SESSIONS));
    let (mut with, mut without, mut waits, mut transactions) = (Vec::new(), Vec::new(), 0, 0.0);
    for round in 0..effort.rounds {
        let rates = round_of(&[BARE, SESSIONS], round, |table| {
            let before = lock_waits(cluster);
            let run =
                pgbench::run(&db, if table == BARE { &bare } else { &enriched }, CLIENTS, effort.seconds);
            assert_eq!(run.failed, 0, "no transaction fails");
            if table == SESSIONS {
                waits += lock_waits(cluster) - before;
                transactions += run.tps * effort.seconds as f64;
            }
            run.tps
        });
        without.push(rates[0]);
        with.push(rates[1]);
    }
    report.ratio(
        &format!("citus, {CLIENTS} clients, {rows} inserts a transaction: rate"),
        format!("{} / {} a second", short(median(&with)), short(median(&without))),
        ratios(&with, &without),
        Aim::AtLeast(0.8),
        format!(
            "{} lock waits per 1,000 transactions",
            short(waits as f64 * 1_000.0 / transactions.max(1.0))
        ),
    );
}

fn insert_select(cluster: &CitusCluster, effort: &Effort, report: &mut Report) {
    let mut session = cluster.session();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        let seconds = round_of(&[BARE, SESSIONS], round, |table| {
            let began = Instant::now();
            session.run(&format!(
                "INSERT INTO {table} (id, starttime, ip)
                 SELECT 'r{round}-' || n, now(), '23.' || n % 256 || '.' || n / 65280 % 250 || '.' || n / 256 % 255
                 FROM generate_series(1, 200000) n"
            ));
            began.elapsed().as_secs_f64()
        });
        without.push(seconds[0]);
        with.push(seconds[1]);
    }
    report.ratio(
        "citus, INSERT SELECT of 200,000 sessions: time",
        format!("{} / {} s", short(median(&with)), short(median(&without))),
        ratios(&with, &without),
        Aim::AtMost(2.5),
        "200,000 new addresses in the first round".to_owned(),
    );
}
