//! Work that a fault delayed is resumed when the fault ends, at every step of the worker.
//!
//! `COWRIE_ENRICH_SEEDS` sets the number of seeds, `COWRIE_ENRICH_SEED` the first one, and `COWRIE_ENRICH_ROUNDS` the
//! length of the storm. `make torture` runs everything for longer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use cowrie_enrich_upstreams::{Behaviour, Fault};
use server_tests::cymru::{Lab, assert_nothing_crashed, member, queue, wait_for_the_queue, worker_pid};
use server_tests::documentation::{page, section};
use server_tests::torture::{self, FaultCounts, STEPS, naptimes_allowed};
use server_tests::{Options, Session, wait_until};

/// Faults in a seed.
const FAULTS: usize = 3;
/// Seeds that run concurrently.
const THREADS: usize = 6;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    number("COWRIE_ENRICH_SEED").unwrap_or_else(|| u64::from(clock()))
}

#[test]
fn after_any_fault_everything_is_done_within_two_naptimes() {
    let first = seed();
    let seeds = number("COWRIE_ENRICH_SEEDS").unwrap_or(10) as usize;
    eprintln!("COWRIE_ENRICH_SEED={first} COWRIE_ENRICH_SEEDS={seeds}");
    let lab = torture::server("torture");
    let watch = lab.database();
    let watch = watch.handle();
    let fault_counts = Mutex::new(FaultCounts::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= seeds {
                        return;
                    }
                    let struck = torture::run(&lab, watch.session(), first + turn as u64, turn, FAULTS);
                    fault_counts.lock().expect("no seed failed").add(struck);
                }
            });
        }
    });
    let fault_counts = fault_counts.into_inner().expect("no seed failed").0;
    eprintln!("struck by faults: {fault_counts:?}");
    for step in STEPS {
        assert!(
            seeds * FAULTS < STEPS.len() || fault_counts.get(step).is_some_and(|number| *number > 0),
            "no fault struck {step}"
        );
    }
    assert_nothing_crashed(&lab.cluster);
}

#[test]
fn counts_are_exact_after_kills_prepared_transactions_and_a_failover() {
    let seed = seed();
    let rounds = number("COWRIE_ENRICH_ROUNDS").unwrap_or(4);
    eprintln!("COWRIE_ENRICH_SEED={seed} COWRIE_ENRICH_ROUNDS={rounds}");
    eprintln!("{}", torture::storm(seed, rounds));
}

/// A gate: a sequence that the test advances. A claim waits until the sequence was advanced once. No lease can be
/// released until it was advanced twice.
const GATE: &str = "
    CREATE SEQUENCE public.gate;
    CREATE FUNCTION public.pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.leased_by IS NULL AND NEW.leased_by IS NOT NULL THEN
            WHILE NOT (SELECT is_called FROM public.gate) LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
        ELSIF OLD.leased_by IS NOT NULL AND NEW.leased_by IS NULL AND (SELECT last_value < 2 FROM public.gate) THEN
            RAISE EXCEPTION 'a fault';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE UPDATE ON enrich.enrichment_job FOR EACH ROW EXECUTE FUNCTION public.pass_gate()";

fn metric(session: &mut Session, name: &str, labels: &str) -> f64 {
    let value = session.one(&format!(
        "SELECT coalesce(max(value), 0) FROM enrich.enrich_metrics
         WHERE name = '{name}' AND labels ->> 'database' = current_database() {labels}"
    ));
    value.parse().expect("a number")
}

fn naptimes(session: &mut Session) -> f64 {
    metric(session, "enrich_worker_naptimes_total", "")
}

#[test]
fn jobs_are_given_back_once_the_obstacle_has_ended() {
    // The rate limit allows two requests at once, and then one request a minute. The worker has two connections.
    let lab = Lab::start(
        Options::named("torture-give-back")
            .with_worker()
            .conf("cowrie_enrich.cymru_rate = 1")
            .conf("cowrie_enrich.cymru_max_connections = 2"),
    );
    let mut db = lab.database();
    let mut client = db.another();
    db.run(GATE);
    lab.whois.behave(Fault::Held);
    std::thread::scope(|threads| {
        // A client uses one of the two connections while the worker claims for the other.
        let lookup = threads.spawn(move || client.run("SELECT FROM enrich.cymru_lookup('{60.0.0.1}')"));
        wait_until("the client asks", || lab.whois.record().connections.len(), |number| *number == 1);
        queue(&mut db, &[member(1, 7)]);
        let pid = worker_pid(&mut db);
        wait_until(
            "the claim waits at the gate",
            || db.rows(&format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}")),
            |event| event == &["PgSleep"],
        );
        lab.whois.behave(Behaviour::normal());
        lookup.join().expect("the lookup ends");
    });
    // Uses up the request that the claim was made for.
    db.run("SELECT FROM enrich.cymru_lookup('{60.0.0.1}')");
    db.run("SELECT nextval('public.gate')");
    let failed = |db: &mut Session| {
        metric(db, "enrich_worker_step_errors_total", "AND labels ->> 'step' = 'release_jobs'")
    };
    wait_until("the job cannot be given back", || failed(&mut db), |number| *number > 0.0);
    db.run("SELECT nextval('public.gate')");
    let from = naptimes(&mut db);
    wait_until(
        "the job is given back",
        || {
            let slept = naptimes(&mut db) - from;
            let leased = db.number("SELECT count(*) FROM enrich.enrichment_job WHERE leased_by IS NOT NULL");
            assert!(leased == 0 || slept <= naptimes_allowed(), "it is leased after {slept} naptimes");
            leased
        },
        |leased| *leased == 0,
    );
    lab.reconfigure(&["cymru_rate = 0"]);
    wait_for_the_queue(&mut db);
    lab.assert_nothing_crashed();
}

#[test]
fn every_step_is_struck_and_explained() {
    let lab = Lab::start(Options::named("torture-steps").with_worker());
    let mut db = lab.database();
    queue(&mut db, &[member(1, 7)]);
    worker_pid(&mut db);
    let counted = wait_until(
        "the worker reports",
        || {
            db.rows(
                "SELECT labels ->> 'step' FROM enrich.enrich_metrics
                 WHERE name = 'enrich_worker_step_errors_total' AND labels ->> 'database' = current_database()
                 ORDER BY 1",
            )
        },
        |steps| !steps.is_empty(),
    );
    let mut struck: Vec<&str> = STEPS
        .iter()
        .copied()
        .chain(["collect", "release_jobs", "look_for_recounts", "look_for_restore"])
        .collect();
    struck.sort_unstable();
    assert_eq!(counted, struck);
    let page = page("docs/worker.md");
    let explained = section(&page, "Steps");
    for step in struck {
        assert!(explained.contains(&format!("`{step}`")), "docs/worker.md does not explain {step}");
    }
}

/// Returns the processor time of a process in nanoseconds.
fn processor_time(pid: i64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process is there");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The worker checks its tables once in every naptime, which is ten seconds by default. Usually a check takes less
/// than a millisecond. The limit is five milliseconds, because other work on a busy machine makes the caches of the
/// processor less effective.
#[test]
fn an_idle_worker_uses_less_than_five_milliseconds_for_each_naptime() {
    let lab = Lab::start(Options::named("torture-idle").with_worker());
    let mut db = lab.database();
    let watch = lab.database();
    let mut watch = watch.another();
    queue(&mut db, &[member(1, 7)]);
    wait_for_the_queue(&mut db);
    let pid = worker_pid(&mut db);
    let name = db.name.clone();
    let mut naptimes = || {
        let value = watch.one(&format!(
            "SELECT coalesce(max(value), 0) FROM enrich.enrich_metrics
             WHERE name = 'enrich_worker_naptimes_total' AND labels ->> 'database' = '{name}'"
        ));
        value.parse::<f64>().expect("a number")
    };
    // The first naptimes plan statements and fill caches.
    let first = naptimes();
    wait_until("the worker has begun to sleep", &mut naptimes, |now| *now >= first + 10.0);
    // Other work on the machine can only increase the value, so the smallest of some measurements counts.
    let mut each = f64::INFINITY;
    for _ in 0..5 {
        let (first, before) = (naptimes(), processor_time(pid));
        let last = wait_until("the worker has slept", &mut naptimes, |now| *now >= first + 20.0);
        each = each.min((processor_time(pid) - before) as f64 / (last - first) / 1e6);
        if each < 5.0 {
            break;
        }
    }
    eprintln!("{each:.3} ms for each naptime");
    assert!(each < 5.0, "{each:.3} ms for each naptime");
}
