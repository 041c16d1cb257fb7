//! Daily quotas are exact from midnight to midnight, whichever process sends the requests, and after any kill. The
//! limits of simultaneous requests and of requests in a second hold too.
//!
//! The servers' clocks show noon, so that the day does not end during a test, unless the test sets the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cowrie_enrich_upstreams::{HttpBehaviour, HttpFault, synthetic_noise};
use server_tests::clock::Clock;
use server_tests::cymru::{self, member, members, state, wait_for_the_queue, worker_pid};
use server_tests::hosts::SUMMARIES;
use server_tests::http::{
    GREYNOISE_KEY, Lab, Plan, asked, count, documents, held, members_like, request, rounds, status,
    wait_for_status, wait_until_held,
};
use server_tests::{Session, wait_until};

fn plan(name: &str, clock: &Clock) -> Plan {
    Plan::of(name, "maxmind,cymru,greynoise").options(|options| options.with_clock(clock))
}

/// Returns an address with a fresh answer of Team Cymru: see [`rounds`].
fn known(session: &mut Session) -> IpAddr {
    let known = "2a10:ffff::1".parse().expect("an address that GreyNoise is not asked about");
    cymru::queue(session, &[known]);
    wait_until(
        "the address is known",
        || {
            session
                .number(&format!("SELECT count(*) FROM enrich.ip_asn_history WHERE ip_address = '{known}'"))
        },
        |known| *known == 1,
    );
    known
}

/// Opens a session after a restart of the server.
fn back(lab: &Lab, name: &str) -> Session {
    lab.cluster.session(name)
}

#[test]
fn hundred_a_day_are_exactly_those_of_highest_priority_whatever_is_killed() {
    const QUOTA: usize = 100;
    const ADDRESSES: usize = 500;
    let clock = Clock::at_noon("quota-kills");
    let lab = plan("quota-kills", &clock)
        .with(&format!("greynoise_daily_quota = {QUOTA}"))
        .options(|options| options.conf("restart_after_crash = on"))
        .start();
    let mut db = lab.database();
    let name = db.name.clone();
    SUMMARIES.create_attached(&mut db);
    db.run(
        "SELECT enrich.set_session_priority('session_summaries', 's.command_count + 10 * s.file_downloads')",
    );
    let known = known(&mut db);
    lab.greynoise.behave(held());
    std::fs::remove_file(lab.key_file("greynoise")).expect("it is there");
    // Gives each address another priority, in another order than that of the addresses: 7 and 500 have no common
    // divisor.
    let addresses = members(0..ADDRESSES);
    let priority: BTreeMap<IpAddr, usize> =
        addresses.iter().enumerate().map(|(n, address)| (*address, n * 7 % ADDRESSES)).collect();
    let rows: Vec<String> = priority
        .iter()
        .flat_map(|(address, rank)| {
            // The session with the highest rule value counts. Either the commands or the files can make the value
            // high.
            [(rank % 10, rank / 10), (0, 0)].map(|(commands, files)| {
                format!("('{address}-{commands}-{files}', '{address}', '2024-05-01', {commands}, {files})")
            })
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    db.run(&format!(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at, command_count, file_downloads)
         VALUES {}",
        rows.join(", ")
    ));
    // The worker waits for a rule for a limited time only, and a busy machine may need longer.
    wait_until(
        "the rule is evaluated",
        || {
            let ranked =
                "SELECT count(DISTINCT priority) FROM enrich.enrichment_job WHERE provider = 'greynoise'";
            (db.number(ranked), state(&mut db))
        },
        |(ranked, _)| *ranked == ADDRESSES as i64,
    );
    // The worker has taken requests from the quota before it saw that there is no key.
    wait_for_status(&mut db, "greynoise", "blocked_reason LIKE 'stopped: %', quota_left", "t|100");
    lab.write_key("greynoise", GREYNOISE_KEY);
    drop(db);

    let mut by_priority = addresses.clone();
    by_priority.sort_by_key(|address| std::cmp::Reverse(priority[address]));
    for kill in 0..3 {
        let mut session = back(&lab, &name);
        // All requests that used up quota have been read by the server.
        let ten_are_held = |session: &mut Session, seen: usize| {
            wait_until(
                "ten are held",
                || (lab.greynoise.in_progress(), lab.greynoise.requests().len(), state(session)),
                |(held, requests, _)| (*held, *requests) == (10, seen),
            );
        };
        ten_are_held(&mut session, 20 * kill + 10);
        let pid = worker_pid(&mut session);
        drop(session);
        if kill == 1 {
            lab.cluster.kill_postmaster();
            lab.cluster.start_again();
        } else {
            lab.cluster.kill_backend(pid);
        }
        let mut session = back(&lab, &name);
        ten_are_held(&mut session, 20 * kill + 20);
        for address in &by_priority[10 * kill..10 * kill + 10] {
            lab.greynoise.behave_for(*address, HttpBehaviour::normal());
        }
        wait_until(
            "these ten are answered",
            || documents(&mut session, "greynoise").len(),
            |stored| *stored == 10 * (kill + 1),
        );
    }
    lab.greynoise.behave(HttpBehaviour::normal());
    let mut db = back(&lab, &name);
    let spent = "blocked_reason, quota, quota_left, in_flight";
    wait_for_status(&mut db, "greynoise", spent, "the daily quota is spent|100|0|0");
    rounds(&mut db, known, 3);
    assert_eq!(asked(&lab.greynoise).len(), QUOTA, "what the server saw");
    let midnight = "quota_resets_at = date_trunc('day', now()) + interval '1 day'";
    assert_eq!(status(&mut db, "greynoise", midnight), "t");
    assert_eq!(db.rows("SELECT requests, cluster_spent FROM enrich.provider_quota"), ["100|100"]);
    // 30 of the 100 requests were sent twice, because their first answers were held when the worker was killed.
    let distinct: BTreeSet<IpAddr> = asked(&lab.greynoise).into_iter().collect();
    assert_eq!(distinct, by_priority[..QUOTA - 30].iter().copied().collect());
    wait_until(
        "the answers are written down",
        || documents(&mut db, "greynoise").len(),
        |stored| *stored == distinct.len(),
    );

    // A restart does not give quota back.
    drop(db);
    lab.cluster.stop_fast();
    lab.cluster.start_again();
    let mut db = back(&lab, &name);
    wait_for_status(&mut db, "greynoise", spent, "the daily quota is spent|100|0|0");
    rounds(&mut db, known, 2);
    let pid = worker_pid(&mut db);
    drop(db);
    lab.cluster.kill_backend(pid);
    let mut db = back(&lab, &name);
    wait_for_status(&mut db, "greynoise", spent, "the daily quota is spent|100|0|0");
    rounds(&mut db, known, 2);
    // Also a second before midnight.
    clock.set(0, 86_390);
    rounds(&mut db, known, 2);
    assert_eq!(asked(&lab.greynoise).len(), QUOTA);

    // Midnight passes several times.
    for (day, of_day) in (1..).zip(by_priority[QUOTA - 30..].chunks(QUOTA)) {
        lab.greynoise.forget();
        clock.set(day, 5);
        if of_day.len() < QUOTA {
            wait_for_the_queue(&mut db);
        } else {
            wait_for_status(&mut db, "greynoise", spent, "the daily quota is spent|100|0|0");
            rounds(&mut db, known, 2);
        }
        let today = asked(&lab.greynoise);
        assert_eq!(today.len(), of_day.len(), "on day {day}");
        let today: BTreeSet<IpAddr> = today.into_iter().collect();
        assert_eq!(today, of_day.iter().copied().collect(), "on day {day}");
    }
    assert_eq!(documents(&mut db, "greynoise").len(), ADDRESSES);
    assert_eq!(db.number("SELECT count(*) FROM enrich.provider_quota WHERE requests = 100"), 5);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    let log = lab.cluster.whole_log();
    assert!(
        !["PANIC", "panicked", "signal 11", "signal 6"].iter().any(|bad| log.contains(bad)),
        "{}",
        lab.cluster.log()
    );
}

/// The day ends while the server runs its queries, as outside of tests.
#[test]
fn midnight_comes_while_lookups_wait() {
    let clock = Clock::at_noon("quota-midnight");
    let lab = plan("quota-midnight", &clock).with("greynoise_daily_quota = 7").start();
    let mut db = lab.database();
    known(&mut db);
    request(&mut db, "greynoise", &members(0..20));
    wait_for_status(&mut db, "greynoise", "quota_left, in_flight", "0|0");
    assert_eq!(asked(&lab.greynoise).len(), 7);
    for day in [1, 2] {
        clock.set(day - 1, 86_398);
        wait_until(
            "the next day's are asked",
            || (asked(&lab.greynoise).len(), state(&mut db)),
            |(asked, _)| *asked == if day == 1 { 14 } else { 20 },
        );
    }
    wait_for_the_queue(&mut db);
    assert_eq!(db.rows("SELECT requests FROM enrich.provider_quota ORDER BY day"), ["7", "7", "6"]);
    lab.assert_nothing_crashed();
}

#[test]
fn databases_share_a_quota_exactly_across_restarts_and_kills() {
    const STEP: usize = 23;
    let clock = Clock::at_noon("quota-shared");
    let lab = plan("quota-shared", &clock)
        .with(&format!("greynoise_daily_quota = {STEP}"))
        .options(|options| options.conf("restart_after_crash = on"))
        .start();
    let names = {
        let (mut a, mut b) = (lab.database(), lab.database());
        lab.greynoise.behave(HttpBehaviour::normal().delayed(Duration::from_millis(3)));
        request(&mut a, "greynoise", &members(0..300));
        request(&mut b, "greynoise", &members(300..600));
        [a.name.clone(), b.name.clone()]
    };
    for step in 1..=14 {
        let mut a = back(&lab, &names[0]);
        let quota = STEP * step;
        wait_for_status(&mut a, "greynoise", "quota, quota_left, in_flight", &format!("{quota}|0|0"));
        let (of_a, of_b): (Vec<IpAddr>, Vec<IpAddr>) =
            asked(&lab.greynoise).into_iter().partition(|address| members(0..300).contains(address));
        assert_eq!(
            of_a.len() + of_b.len(),
            quota,
            "{} and {} after {} restarts",
            of_a.len(),
            of_b.len(),
            step - 1
        );
        assert!(step < 14 || !of_a.is_empty() && !of_b.is_empty(), "both get something in the end");
        assert_eq!(
            a.number("SELECT COALESCE(sum(requests), 0) FROM enrich.provider_quota")
                + back(&lab, &names[1])
                    .number("SELECT COALESCE(sum(requests), 0) FROM enrich.provider_quota"),
            quota as i64
        );
        // Read at the next start.
        let next = format!("cowrie_enrich.greynoise_daily_quota = {}", quota + STEP);
        match step % 3 {
            0 => {
                drop(a);
                lab.cluster.stop_fast();
                lab.cluster.configure(&[next]);
                lab.cluster.start_again();
            }
            1 => {
                drop(a);
                lab.cluster.kill_postmaster();
                lab.cluster.configure(&[next]);
                lab.cluster.start_again();
            }
            _ => {
                // The setting is read only after a reload, and the postmaster reloads while it restarts all processes.
                let pid = worker_pid(&mut a);
                drop(a);
                lab.cluster.kill_backend(pid);
                lab.cluster.reconfigure(&[next]);
            }
        }
    }
    assert!(lab.greynoise.most_at_once() <= 10);
}

/// A request counts with any outcome.
#[test]
fn requests_that_fail_are_spent() {
    let clock = Clock::at_noon("quota-failures");
    let lab = plan("quota-failures", &clock)
        .with("greynoise_daily_quota = 50")
        .with("greynoise_max_parallel = 1")
        .with("greynoise_timeout = 1s")
        .start();
    let mut db = lab.database();
    let absent = members_like(1, |address| synthetic_noise(address).is_none())[0];
    request(&mut db, "greynoise", &[absent]);
    wait_for_the_queue(&mut db);
    assert_eq!(count(&mut db, "greynoise", "absent"), 1);
    let mut sent = 1;
    for (n, fault) in [
        HttpFault::status(500),
        HttpFault::status(429),
        HttpFault::status(401),
        HttpFault::status(400),
        HttpFault::NotJson,
        HttpFault::Silent,
        HttpFault::CutBody,
        HttpFault::EmptyBody,
        HttpFault::OtherAddress,
    ]
    .into_iter()
    .enumerate()
    {
        lab.greynoise.behave(fault.clone());
        request(&mut db, "greynoise", &[member(1_000 + n, 7)]);
        wait_until(
            "it was asked",
            || (lab.greynoise.requests().len(), state(&mut db)),
            |(now, _)| *now > sent,
        );
        lab.greynoise.behave(HttpBehaviour::normal());
        db.run("SELECT enrich.resume_provider('greynoise')");
        wait_until(
            "it is answered",
            || {
                db.run("SELECT enrich.resume_provider('greynoise')");
                (
                    db.number("SELECT count(*) FROM enrich.enrichment_job WHERE provider = 'greynoise'"),
                    state(&mut db),
                )
            },
            |(left, _)| *left == 0,
        );
        sent = lab.greynoise.requests().len();
        // Answers are stored before their permits are returned.
        let spent = format!("{}|0", 50 - sent);
        eprintln!("after {fault:?}");
        wait_for_status(&mut db, "greynoise", "quota_left, in_flight", &spent);
        assert_eq!(db.number("SELECT requests FROM enrich.provider_quota"), sent as i64);
    }
}

#[test]
fn a_key_that_cannot_be_read_costs_nothing() {
    let clock = Clock::at_noon("quota-unsent");
    let lab = plan("quota-unsent", &clock).with("greynoise_daily_quota = 50").start();
    let mut db = lab.database();
    let known = known(&mut db);
    std::fs::remove_file(lab.key_file("greynoise")).expect("it is there");
    request(&mut db, "greynoise", &members(0..30));
    wait_for_status(&mut db, "greynoise", "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
    rounds(&mut db, known, 3);
    assert_eq!(lab.greynoise.requests().len(), 0);
    lab.write_key("greynoise", GREYNOISE_KEY);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.greynoise.requests().len(), 30);
    assert_eq!(status(&mut db, "greynoise", "quota_left"), "20");
}

/// Unsent requests can be used again only when the ledger has them back. Otherwise a crash could raise or lower the quota.
#[test]
fn unsent_requests_are_first_given_back_to_the_ledger() {
    let clock = Clock::at_noon("quota-ledger");
    let lab = plan("quota-ledger", &clock).with("greynoise_daily_quota = 50").start();
    let mut db = lab.database();
    db.run(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN IF NEW.requests < OLD.requests THEN RAISE 'kept'; END IF; RETURN NEW; END$$;
         CREATE TRIGGER keep BEFORE UPDATE ON enrich.provider_quota FOR EACH ROW EXECUTE FUNCTION keep();
         ALTER TABLE enrich.provider_quota ENABLE ALWAYS TRIGGER keep",
    );
    std::fs::remove_file(lab.key_file("greynoise")).expect("it is there");
    request(&mut db, "greynoise", &members(0..5));
    wait_for_status(&mut db, "greynoise", "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
    wait_until(
        "the worker has tried twice to give them back",
        || (db.number("SELECT sum(errors) FROM enrich.worker_status"), state(&mut db)),
        |(failed, _)| *failed >= 2,
    );
    let ledger = "SELECT requests, cluster_spent FROM enrich.provider_quota WHERE provider = 'greynoise'";
    assert_eq!(db.rows(ledger), ["5|5"]);
    assert_eq!(status(&mut db, "greynoise", "quota_left"), "45");
    db.run("DROP TRIGGER keep ON enrich.provider_quota");
    wait_for_status(&mut db, "greynoise", "quota_left", "50");
    assert_eq!(db.rows(ledger), ["0|0"]);
}

#[test]
fn a_quota_is_a_setting_and_none_is_none() {
    let clock = Clock::at_noon("quota-setting");
    let lab = plan("quota-setting", &clock).with("greynoise_daily_quota = 5").start();
    let mut db = lab.database();
    let known = known(&mut db);
    request(&mut db, "greynoise", &members(0..40));
    wait_for_status(&mut db, "greynoise", "quota_left, in_flight", "0|0");
    assert_eq!(asked(&lab.greynoise).len(), 5);
    lab.reconfigure(&["greynoise_daily_quota = 12"]);
    wait_for_status(&mut db, "greynoise", "quota, quota_left, in_flight", "12|0|0");
    assert_eq!(asked(&lab.greynoise).len(), 12);
    lab.reconfigure(&["greynoise_daily_quota = 3"]);
    rounds(&mut db, known, 2);
    assert_eq!(status(&mut db, "greynoise", "quota, quota_left"), "3|0");
    assert_eq!(asked(&lab.greynoise).len(), 12);
    // resume_provider() does not restore a spent quota.
    db.run("SELECT enrich.resume_provider('greynoise')");
    rounds(&mut db, known, 2);
    assert_eq!(asked(&lab.greynoise).len(), 12);
    lab.reconfigure(&["greynoise_daily_quota = 0"]);
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 40);
    assert_eq!(
        status(&mut db, "greynoise", "quota, quota_left, quota_resets_at, blocked_reason"),
        "NULL|NULL|NULL|NULL"
    );
    // Other providers have separate quotas.
    assert_eq!(status(&mut db, "dshield", "quota"), "NULL");
    lab.assert_nothing_crashed();
}

// --- Rate and parallelism ----------------------------------------------------------------------

#[test]
fn no_second_holds_more_requests_than_the_rate_says() {
    let lab = Plan::of("rate-one", "maxmind,greynoise").with("greynoise_rate = 10").start();
    let mut db = lab.database();
    lab.greynoise.behave(HttpBehaviour::normal().delayed(Duration::from_millis(150)));
    request(&mut db, "greynoise", &members(0..60));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 60);
    let most = lab.greynoise.most_within(Duration::from_secs(1));
    assert!((5..=10).contains(&most), "{most} in a second");
    assert!(lab.greynoise.most_at_once() <= 10);
}

#[test]
fn two_databases_share_the_rate() {
    let lab = Plan::of("rate-two", "maxmind,greynoise").with("greynoise_rate = 10").start();
    let (mut a, mut b) = (lab.database(), lab.database());
    lab.greynoise.behave(HttpBehaviour::normal().delayed(Duration::from_millis(200)));
    request(&mut a, "greynoise", &members(0..30));
    request(&mut b, "greynoise", &members(30..60));
    wait_for_the_queue(&mut a);
    wait_for_the_queue(&mut b);
    assert_eq!(asked(&lab.greynoise).len(), 60);
    let most = lab.greynoise.most_within(Duration::from_secs(1));
    assert!(most <= 10, "{most} in a second");
    assert!(lab.greynoise.most_at_once() <= 10, "{} at once", lab.greynoise.most_at_once());
}

#[test]
fn without_a_rate_as_many_are_asked_at_once_as_may_be_and_no_more() {
    let lab = Plan::of("rate-none", "maxmind,cymru,greynoise,spur").start();
    let (mut a, mut b) = (lab.database(), lab.database());
    let mut known = Vec::new();
    for db in [&mut a, &mut b] {
        known.push(self::known(db));
    }
    for (provider, most, first) in [("greynoise", 10, 0), ("spur", 32, 200)] {
        lab.reconfigure(&[&format!("{provider}_max_parallel = {most}")]);
        let server = lab.server(provider);
        wait_for_the_queue(&mut a);
        wait_for_the_queue(&mut b);
        server.forget();
        server.behave(held());
        request(&mut a, provider, &members(first..first + 100));
        request(&mut b, provider, &members(first + 100..first + 200));
        wait_until_held(server, most);
        rounds(&mut a, known[0], 2);
        rounds(&mut b, known[1], 2);
        assert_eq!(server.in_progress(), most, "{provider}");
        assert_eq!(count(&mut a, provider, "in_flight"), most as i64);
        server.behave(HttpBehaviour::normal());
        wait_for_the_queue(&mut a);
        wait_for_the_queue(&mut b);
        assert_eq!(server.most_at_once(), most);
        assert_eq!(asked(server).into_iter().collect::<BTreeSet<_>>().len(), 200);
    }
    lab.assert_nothing_crashed();
}
