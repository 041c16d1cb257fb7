//! All work at the same time, and processes killed at random times. After each recovery, and at the end, all invariants
//! hold.
//!
//! `COWRIE_ENRICH_SEED` sets the seed, to repeat a failure as far as the timing of processes allows.
//! `COWRIE_ENRICH_ROUNDS` sets the number of kills (default: twelve), and turns fsync on.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cowrie_enrich_upstreams::{Behaviour, HttpBehaviour, HttpFault};
use server_tests::cymru::{state, wait_for_the_queue, worker_pid};
use server_tests::http::Plan;
use server_tests::invariants::{
    Snapshots, assert_indexes_are_sound, assert_invariants, assert_shared_memory_is_sane,
};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::torture::kill;
use server_tests::traffic::{TABLES, Traffic, assert_sessions_are, is_connection_lost, prepare};
use server_tests::world::crowd_address;
use server_tests::{Session, wait_until};

const CLIENTS: usize = 4;

/// Number of different kinds of processes that must be killed at least.
const KINDS_KILLED: usize = 4;

/// The processes that are killed, by `backend_type` of pg_stat_activity, which does not list the postmaster.
const VICTIMS: [&str; 10] = [
    "client backend",
    "cowrie_enrich worker",
    "client backend",
    "cowrie_enrich launcher",
    "cowrie_enrich worker",
    "cowrie_enrich exporter",
    "checkpointer",
    "postmaster",
    "walwriter",
    "postmaster",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    number("COWRIE_ENRICH_SEED").unwrap_or_else(|| u64::from(clock()))
}

/// Returns one of the calls that users make while sessions come in.
fn errand(random: &mut Random) -> String {
    let crowd = |random: &mut Random| {
        let addresses: Vec<String> = (0..20).map(|_| crowd_address(random, 600)).collect();
        addresses.join(",")
    };
    match random.below(9) {
        0 => "CALL enrich.fold_statistics()".to_owned(),
        1 => "CALL enrich.backfill_sessions('sessions', 50, false)".to_owned(),
        2 => "CALL enrich.backfill_sessions('session_summaries', 50, false)".to_owned(),
        3 => "CALL enrich.build_asn_inventory(20, false)".to_owned(),
        4 => "CALL enrich.refresh_stale(max_ips => 50)".to_owned(),
        5 => "CALL enrich.refresh_session_counts()".to_owned(),
        6 => "SELECT enrich.retry_dead_letters()".to_owned(),
        7 => format!("SELECT count(*) FROM enrich.enrich_ips('{{{}}}', true)", crowd(random)),
        _ => format!(
            "SELECT enrich.request_enrichment(a, 'greynoise') FROM unnest('{{{}}}'::inet[]) a",
            crowd(random)
        ),
    }
}

fn run_errands(traffic: &Traffic<'_>, mut random: Random) -> u64 {
    let mut session: Option<Session> = None;
    let mut done = 0;
    while !traffic.is_over() {
        let Some(open) = session.as_mut() else {
            session = traffic.try_connect();
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let errand = errand(&mut random);
        match open.try_run(&errand) {
            Ok(()) => done += 1,
            Err(refusal) if is_connection_lost(&refusal) => session = None,
            Err(refusal) => panic!("{errand} was refused: {refusal:?}"),
        }
    }
    done
}

#[test]
fn whatever_is_killed_whenever_all_invariants_hold() {
    let seed = seed();
    let rounds = number("COWRIE_ENRICH_ROUNDS").unwrap_or(12);
    eprintln!("COWRIE_ENRICH_SEED={seed} COWRIE_ENRICH_ROUNDS={rounds}");
    let mut random = Random::seeded(seed);
    let lab = Plan::of("crashes", "maxmind,cymru,greynoise,dshield,spur")
        .with("cymru_batch_size = 20")
        .with("worker_naptime = 100ms")
        .options(|options| {
            // A kill does not lose data that the kernel has. A sync of every file before each recovery would cost
            // seconds and show nothing more.
            let fsync = if number("COWRIE_ENRICH_ROUNDS").is_some() { "fsync = on" } else { "fsync = off" };
            options.durable().conf(fsync).conf("restart_after_crash = on").conf("checkpoint_timeout = 30s")
        })
        .start();
    lab.reconfigure(&[&format!("status_file = '{}'", lab.cluster.files().join("status.json").display())]);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(30)));
    for (_, server) in lab.servers() {
        server.behave(HttpBehaviour::normal().delayed(Duration::from_millis(3)));
    }
    let mut db = lab.database();
    let name = db.name.clone();
    prepare(&mut db);
    drop(db);

    let traffic = Traffic::new(&lab.cluster, &name, CLIENTS, seed);
    let mut seen = Snapshots::default();
    let mut killed: BTreeMap<&str, u32> = BTreeMap::new();
    let errands = traffic.during(|| {
        std::thread::scope(|threads| {
            let _ends = traffic.ends();
            let errands = threads.spawn(|| run_errands(&traffic, Random::seeded(seed + 1)));
            // A kind of process may not be drawn, or may not run when it is drawn. So there are more rounds until enough kinds
            // were killed.
            let is_over =
                |round: u64, kinds: usize| round >= rounds && (kinds >= KINDS_KILLED || round >= 4 * rounds);
            let mut round = 0;
            while !is_over(round, killed.len()) {
                traffic.wait_for_transactions(20);
                std::thread::sleep(Duration::from_millis(random.below(250)));
                // Sometimes a provider fails, so that there are dead letters, too.
                let fails = random.one_in(3);
                lab.dshield.behave(if fails {
                    HttpFault::Status { code: 500, retry_after: None }.into()
                } else {
                    HttpBehaviour::normal()
                });
                let victim = VICTIMS[(round as usize + random.below(3) as usize) % VICTIMS.len()];
                if kill(&lab.cluster, victim, &name, &mut random) {
                    *killed.entry(victim).or_default() += 1;
                }
                // Asserts the invariants while all work continues, and then while the clients are stopped.
                let mut session =
                    wait_until("it can be asked", || traffic.try_connect().map(Alive), Option::is_some)
                        .expect("it can be asked")
                        .0;
                assert_invariants(&mut session, &mut seen);
                let held = traffic.hold();
                assert_sessions_are(&mut session, &held.acknowledged());
                assert!(!errands.is_finished(), "an errand was refused");
                round += 1;
            }
            traffic.end();
            errands.join().expect("errands end well")
        })
    });
    let transactions = traffic.transactions.load(std::sync::atomic::Ordering::Relaxed);
    eprintln!("killed {killed:?}; {transactions} transactions, {errands} errands");

    // All providers answer, so the queue becomes empty.
    lab.dshield.behave(HttpBehaviour::normal());
    let held = traffic.hold();
    let mut db = lab.cluster.session(&name);
    worker_pid(&mut db);
    for provider in ["cymru", "greynoise", "dshield", "spur"] {
        db.run(&format!("SELECT enrich.resume_provider('{provider}')"));
    }
    wait_for_the_queue(&mut db);
    assert_invariants(&mut db, &mut seen);
    assert_sessions_are(&mut db, &held.acknowledged());
    eprintln!("{} sessions, {}", held.acknowledged().len(), state(&mut db));
    assert_eq!(db.number("SELECT count(*) FROM enrich.job_address"), 0);
    // If an UPDATE sets the address of a session, and the answer about this address is already stored, no later
    // answer completes the session. A backfill completes it. The first call may only finish a killed call, so a second
    // call reads all sessions.
    for (table, address) in TABLES {
        for _ in 0..2 {
            db.run(&format!("CALL enrich.backfill_sessions('{table}', progress => false)"));
        }
        let incomplete = format!(
            "SELECT count(*) FROM {table} s JOIN enrich.ip_inventory i ON i.ip_address = enrich.session_address(s.{address})
             WHERE s.snapshot_asn IS NULL AND i.current_asn IS NOT NULL"
        );
        // If another transaction has locked a session, the backfill leaves this session to the worker.
        let _ = wait_until(
            &format!("all sessions of {table} have their network"),
            || db.number(&incomplete),
            |sessions| *sessions == 0,
        );
    }
    assert_counts_are_exact(&mut db, &TABLES);
    assert_invariants(&mut db, &mut seen);
    assert_shared_memory_is_sane(&mut db);
    eprintln!("indexes checked: {}", assert_indexes_are_sound(&mut db));
    assert!(!lab.cluster.whole_log().contains("panicked"), "somebody panicked");
    assert!(killed.len() >= KINDS_KILLED, "hardly anything was killed");
}

/// A connection, which has no `Debug` output.
struct Alive(Session);

impl std::fmt::Debug for Alive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connected")
    }
}
