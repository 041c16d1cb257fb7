//! Measures one-row transactions with a large inventory, with and without concurrent folds.

use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::Cluster;
use server_tests::database::fresh_database;

use crate::addresses::Addresses;
use crate::inserts::{ATTACHED, BARE, TABLE, ratios, round_of, script, settle};
use crate::report::{Aim, Report, median, short};
use crate::{Effort, pgbench};

const ADDRESSES: usize = 1_900_000;
const NETWORKS: usize = 80_000;
const SESSIONS: usize = 4_000_000;

/// One kind of measurement: the number of clients, whether folds run at the same time, and the aim.
const KINDS: [(u32, bool, f64); 3] = [(1, false, 0.88), (16, false, 0.85), (16, true, 0.8)];

pub fn measure(cluster: &Cluster, addresses: &Addresses, effort: &Effort, report: &mut Report) {
    eprintln!("large: preparing {ADDRESSES} addresses and {SESSIONS} sessions");
    let mut db = fresh_database(cluster);
    db.run("CREATE TABLE pool (n int PRIMARY KEY, ip inet NOT NULL)");
    let inhabitants = addresses.population(ADDRESSES, NETWORKS);
    let numbered =
        inhabitants.iter().zip(1..).map(|(inhabitant, n)| format!("{n}\t{}\n", inhabitant.address));
    db.copy("pool", &numbered.collect::<String>());
    db.run("SELECT count(*) FROM enrich.enrich_ips((SELECT array_agg(ip) FROM public.pool))");
    for table in [BARE, ATTACHED] {
        db.run(&TABLE.replace("{name}", table));
        db.run(&format!(
            "INSERT INTO {table} (session_id, source_ip, first_event_at)
             SELECT 's' || s, p.ip, now() FROM generate_series(1, {SESSIONS}) s JOIN pool p ON p.n = 1 + s % {ADDRESSES}"
        ));
    }
    db.run("SELECT enrich.attach_session_table('attached', 'source_ip', 'first_event_at')");
    // Sessions from before the attachment are not counted by the triggers.
    db.run("CALL enrich.refresh_session_counts()");
    db.run("VACUUM (FREEZE, ANALYZE)");

    for (clients, is_folding, aim) in KINDS {
        let with = if is_folding { "with folds" } else { "without folds" };
        eprintln!("large: {clients} clients, {with}, {} rounds", effort.rounds);
        let (mut bare, mut attached) = (Vec::new(), Vec::new());
        for round in 0..effort.rounds {
            let tps = round_of(&[BARE, ATTACHED], round, |table| {
                settle(&mut db, table);
                let script = script(&mut db, table, 1);
                let is_over = AtomicBool::new(!(is_folding && table == ATTACHED));
                let mut folding = db.another();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !is_over.load(Ordering::Relaxed) {
                            folding.run("CALL enrich.fold_statistics()");
                        }
                    });
                    let run = pgbench::run(&db, &script, clients, effort.seconds);
                    is_over.store(true, Ordering::Relaxed);
                    assert_eq!(run.failed, 0, "failed transactions");
                    run.tps
                })
            });
            bare.push(tps[0]);
            attached.push(tps[1]);
        }
        report.ratio(
            &format!("1-row transactions, {clients} clients, {ADDRESSES} addresses, {with}"),
            format!("{} / {} tps", short(median(&attached)), short(median(&bare))),
            ratios(&attached, &bare),
            Aim::AtLeast(aim),
            "attached / bare".to_owned(),
        );
    }
}
