//! With a kill at any time: no lookup is lost, none is stored twice, and few are requested twice.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use cowrie_enrich_upstreams::{Behaviour, Fault, synthetic_asn};
use server_tests::cymru::{
    Lab, assert_placed, assert_snapshots_are_complete, member, members, provider, queue, state,
    wait_for_the_queue, worker_pid, worker_pid_now,
};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, Session, wait_until};

const CONNECTIONS: usize = 4;
const KILLS: usize = 20;

struct Size {
    addresses: usize,
    batch: usize,
    /// Delay of the server before each answer.
    delay: Duration,
    /// Maximum milliseconds from the start of a request to the kill.
    pause: u64,
}

/// Returns the size of the test. With `COWRIE_ENRICH_FULL_SIZE` the test takes about three minutes, and checks the
/// same things.
fn size() -> Size {
    if std::env::var_os("COWRIE_ENRICH_FULL_SIZE").is_some() {
        return Size { addresses: 10_000, batch: 500, delay: Duration::from_secs(5), pause: 8_000 };
    }
    Size { addresses: 10_000, batch: 40, delay: Duration::from_millis(80), pause: 120 }
}

/// `COWRIE_ENRICH_SEED` repeats a failure, as far as processes can be repeated.
fn seed() -> u64 {
    let given = std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    given.unwrap_or_else(|| u64::from(clock()))
}

#[test]
fn twenty_kills_lose_nothing_and_repeat_little() {
    let seed = seed();
    eprintln!("COWRIE_ENRICH_SEED={seed}");
    let mut random = Random::seeded(seed);
    let size = size();
    let lab = Lab::start(
        Options::named("kills")
            .with_worker()
            .conf(&format!("cowrie_enrich.cymru_max_connections = {CONNECTIONS}"))
            .conf(&format!("cowrie_enrich.cymru_batch_size = {}", size.batch))
            .conf("cowrie_enrich.cymru_timeout = 10s")
            .conf("restart_after_crash = on"),
    );
    let mut db = lab.database();
    let name = db.name.clone();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    lab.whois.behave(Behaviour::normal().delayed(size.delay));
    let mut stored = 0;
    let mut store = |session: &mut Session, hosts: &[Host], addresses: usize| {
        let from = stored;
        stored += addresses;
        let keys: Vec<(String, String)> =
            (from..stored).map(|n| (format!("k{n}"), member(n, 7).to_string())).collect();
        let rows: Vec<(&str, Option<&str>)> =
            keys.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
        hosts.iter().for_each(|host| session.run(&host.insert(&rows)));
    };
    store(&mut db, &[COWRIE, SUMMARIES], size.addresses / 2);
    store(&mut db, &[COWRIE], size.addresses / 2);
    drop(db);

    let mut kinds = [0; 3];
    for _ in 0..KILLS {
        let mut session = lab.cluster.session(&name);
        // Waits until a request has begun after the last kill, so that each kill interrupts work. The kill then comes
        // at a random time.
        let seen = lab.whois.record().connections.len();
        wait_until(
            "work goes on",
            || {
                // In one statement, because requests become jobs meanwhile.
                let left = session.number(
                    "SELECT (SELECT count(*) FROM enrich.enrichment_job)
                         + (SELECT count(*) FROM enrich.enrichment_request)",
                );
                if left == 0 {
                    store(&mut session, &[COWRIE], 10 * size.batch);
                }
                (lab.whois.record().connections.len() - seen, state(&mut session))
            },
            |(asked, _)| *asked > 0,
        );
        std::thread::sleep(Duration::from_millis(random.below(size.pause)));
        let kind = random.below(3) as usize;
        kinds[kind] += 1;
        match kind {
            0 => {
                let pid = wait_until(
                    "there is a worker",
                    || (worker_pid_now(&mut session), state(&mut session)),
                    |(pid, _)| pid.is_some(),
                )
                .0
                .expect("there is one");
                drop(session);
                lab.cluster.kill_backend(pid);
            }
            1 => {
                drop(session);
                lab.cluster.kill_postmaster();
                lab.cluster.start_again();
            }
            _ => {
                lab.whois.stop();
                lab.whois.listen_again();
            }
        }
    }
    eprintln!("killed: {} workers, {} postmasters, {} connections", kinds[0], kinds[1], kinds[2]);
    let mut db = lab.cluster.session(&name);
    wait_for_the_queue(&mut db);

    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "nothing here is a lookup's fault");
    assert_placed(&mut db, &members(0..stored));
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), stored as i64);
    assert_snapshots_are_complete(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    assert_eq!(db.number("SELECT count(*) FROM enrich.job_address"), 0);

    let record = lab.whois.record();
    assert!(record.largest_batch() <= size.batch);
    let again = record.answered_twice().len();
    let most = (kinds[0] + kinds[1]) * CONNECTIONS * size.batch;
    eprintln!("{} exchanges; {again} answers were given again, at most {most}", record.connections.len());
    assert!(
        again <= most,
        "{again} addresses were asked again although they had been answered, at most {most}"
    );
}

/// The next worker does not wait for the lease of a process that has ended.
#[test]
fn a_worker_that_is_killed_in_the_middle_of_a_batch_has_it_asked_again() {
    let lab = Lab::start(Options::named("kills-lease").with_worker());
    let mut db = lab.database();
    let name = db.name.clone();
    lab.whois.behave(Fault::Held);
    let addresses = members(0..30);
    queue(&mut db, &addresses);
    let asked = || lab.whois.record().connections.iter().filter(|c| c.end).count();
    wait_until("the batch is under way", asked, |n| *n == 1);
    let pid = worker_pid(&mut db);
    assert_eq!(
        db.one("SELECT count(*), min(due_at) > now() + interval '1 minute' FROM enrich.enrichment_job WHERE leased_by IS NOT NULL"),
        "30|t"
    );
    drop(db);
    lab.cluster.kill_backend(pid);
    // Answers are still held, so the second request comes from the next worker.
    wait_until("the successor asks again", asked, |n| *n == 2);
    lab.whois.behave(Behaviour::normal());
    let mut db = lab.cluster.session(&name);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(lab.whois.record().answered_twice(), [] as [IpAddr; 0]);
    assert_eq!(provider(&mut db, "in_flight"), 0);
}

/// Snapshot columns describe the time of the attack. So a stored network stays when another network is found later.
#[test]
fn a_kill_between_two_batches_writes_no_session_twice() {
    let lab =
        Lab::start(Options::named("kills-between").with_worker().conf("cowrie_enrich.cymru_batch_size = 5"));
    let mut db = lab.database();
    let name = db.name.clone();
    COWRIE.create_attached(&mut db);
    let addresses = members(0..20);
    // Two batches are answered, the third is held.
    lab.whois.behave_in_turn(vec![Behaviour::normal(), Behaviour::normal(), Fault::Held.into()]);
    let keys: Vec<(String, String)> =
        addresses.iter().enumerate().map(|(n, a)| (format!("k{n}"), a.to_string())).collect();
    let rows: Vec<(&str, Option<&str>)> = keys.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
    db.run(&COWRIE.insert(&rows));
    let completed = "SELECT count(*) FROM sessions WHERE snapshot_asn IS NOT NULL";
    wait_until("ten sessions are complete", || db.number(completed), |n| *n == 10);
    let before = db.rows("SELECT id, xmin FROM sessions WHERE snapshot_asn IS NOT NULL ORDER BY id");
    let pid = worker_pid(&mut db);
    drop(db);
    lab.cluster.kill_backend(pid);
    lab.whois.behave(Behaviour::normal());
    let mut db = lab.cluster.session(&name);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    let ids: Vec<&str> = before.iter().map(|row| row.split('|').next().expect("an id").trim()).collect();
    assert_eq!(
        db.rows(&format!("SELECT id, xmin FROM sessions WHERE id IN ('{}') ORDER BY id", ids.join("','"))),
        before
    );
    assert_eq!(
        COWRIE.snapshot(&mut db, "k0").split('|').next(),
        Some(&*synthetic_asn(addresses[0]).to_string())
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}
