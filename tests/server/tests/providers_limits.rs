//! Tests three things: failures that do not count as attempts of a lookup; limits per second and per day when the
//! worker is delayed; the time that the worker spends on lookups that need no request.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cowrie_enrich_upstreams::{CannedAnswer, HttpBehaviour, HttpFault, HttpRequest};
use server_tests::clock::Clock;
use server_tests::cymru::{self, array, member, members, state, wait_for_the_queue};
use server_tests::http::{
    Plan, asked, count, documents, held, request, rounds, status, wait_for_status, wait_until_held,
};
use server_tests::{Database, Session, wait_until};

fn plan(name: &str) -> Plan {
    Plan::of(name, "maxmind,cymru,greynoise").with("retry_base = 10ms")
}

/// Returns an address with a fresh answer of Team Cymru: see [`rounds`].
fn known(session: &mut Session) -> IpAddr {
    let known = "2a10:ffff::1".parse().expect("an address that GreyNoise is not asked about");
    cymru::queue(session, &[known]);
    wait_for_the_queue(session);
    known
}

fn custom(answer: impl Fn(&HttpRequest) -> CannedAnswer + Send + Sync + 'static) -> HttpFault {
    HttpFault::Custom(Arc::new(answer))
}

fn json(status: u16, body: impl Into<Vec<u8>>) -> CannedAnswer {
    CannedAnswer {
        status,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    }
}

fn quiet_host(request: &HttpRequest) -> CannedAnswer {
    let ip = request.ip.expect("an address");
    json(200, format!("{{\"ip\":\"{ip}\",\"noise\":false,\"riot\":false}}"))
}

fn after(seconds: u32) -> HttpFault {
    HttpFault::Status { code: 429, retry_after: Some(seconds.to_string()) }
}

/// Waits until this number of addresses has an answer. Ends every backoff meanwhile.
#[track_caller]
fn wait_without_rests(db: &mut Session, provider: &str, number: usize) {
    wait_until(
        "all are answered, or dead",
        || {
            db.run(&format!("SELECT enrich.resume_provider('{provider}')"));
            let dead = db.number("SELECT count(*) FROM enrich.dead_letter");
            (documents(db, provider).len(), dead, state(db))
        },
        |(stored, dead, _)| stored + *dead as usize >= number,
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
}

// --- Failures that do not count as attempts -------------------------------------------------------

/// The provider's limit is lower than the configured one. Throttled lookups are requested again until each has an
/// answer.
#[test]
fn a_provider_that_answers_one_of_eleven_and_throttles_the_others_kills_no_lookup() {
    let lab = plan("limits-throttled").start();
    for status in [429, 503] {
        let mut db = lab.database();
        let seen = AtomicUsize::new(0);
        lab.greynoise.behave(custom(move |request| {
            if seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(11) {
                return quiet_host(request);
            }
            let mut throttled = json(status, "{\"message\":\"too many\"}");
            throttled.headers.push(("retry-after".to_owned(), "1".to_owned()));
            throttled
        }));
        lab.greynoise.forget();
        let addresses = members(0..30);
        request(&mut db, "greynoise", &addresses);
        wait_without_rests(&mut db, "greynoise", addresses.len());
        wait_for_the_queue(&mut db);
        let requests = lab.greynoise.requests().len();
        assert!(requests > 200, "{requests} requests: hardly any was put off");
        lab.greynoise.behave(HttpBehaviour::normal());
    }
    lab.assert_nothing_crashed();
}

/// A wrong URL, for which the provider returns an error message.
#[test]
fn a_provider_that_refuses_everybody_is_left_alone_and_kills_no_lookup() {
    let lab = plan("limits-refused").start();
    let mut db = lab.database();
    request(&mut db, "greynoise", &members(900..901));
    wait_for_the_queue(&mut db);
    lab.greynoise.behave(HttpFault::status(400));
    lab.greynoise.forget();
    let addresses = members(0..20);
    request(&mut db, "greynoise", &addresses);
    wait_until(
        "the circuit breaker opens",
        || (status(&mut db, "greynoise", "state, last_error"), state(&mut db)),
        |(seen, _)| ["open|refused: ", "half-open|refused: "].iter().any(|start| seen.starts_with(start)),
    );
    // Waits until there are three times as many failures as all lookups have attempts.
    wait_until(
        "it was asked often enough",
        || {
            db.run("SELECT enrich.resume_provider('greynoise')");
            (lab.greynoise.requests().len(), state(&mut db))
        },
        |(requests, _)| *requests >= 180,
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    lab.greynoise.behave(HttpBehaviour::normal());
    wait_without_rests(&mut db, "greynoise", 1 + addresses.len());
    wait_for_the_queue(&mut db);
    assert_eq!(status(&mut db, "greynoise", "dead_letters, state"), "0|closed");
    lab.assert_nothing_crashed();
}

/// The refused addresses have the highest priority, so they delay all other addresses for a while.
#[test]
fn a_handful_of_urgent_addresses_that_are_refused_hold_up_nobody_for_good() {
    let lab = plan("limits-urgent").with("greynoise_max_parallel = 1").start();
    let mut db = lab.database();
    let bad = members(0..6);
    for address in &bad {
        lab.greynoise.behave_for(*address, HttpFault::status(400));
    }
    db.run(&format!(
        "SELECT enrich.request_enrichment(a, 'greynoise', priority => 100) FROM unnest({}) a",
        array(&bad)
    ));
    wait_for_status(&mut db, "greynoise", "failures >= 5", "t");
    let good = members(100..110);
    request(&mut db, "greynoise", &good);
    wait_until(
        "the others are answered",
        || (documents(&mut db, "greynoise").len(), state(&mut db)),
        |(stored, _)| *stored == good.len(),
    );
    // After other addresses were answered, the refused lookups become dead letters.
    let mut block = 200;
    wait_until(
        "the refused ones are dead",
        || {
            block += 1;
            request(&mut db, "greynoise", &[member(block, 7)]);
            (db.number("SELECT count(*) FROM enrich.dead_letter"), state(&mut db))
        },
        |(dead, _)| *dead == 6,
    );
    wait_for_the_queue(&mut db);
    assert_eq!(
        db.rows("SELECT DISTINCT attempts, last_error LIKE 'refused: %' FROM enrich.dead_letter"),
        ["3|t"]
    );
    lab.assert_nothing_crashed();
}

// --- Backoff ----------------------------------------------------------------------------------------

/// The answer to a request from before the backoff does not end the backoff.
#[test]
fn an_answer_that_comes_during_a_rest_does_not_end_that_one_asks_whether_it_is_over() {
    let lab = plan("limits-late").start();
    let mut db = lab.database();
    let known = known(&mut db);
    lab.greynoise.behave(held());
    let addresses = members(0..40);
    request(&mut db, "greynoise", &addresses);
    wait_until_held(&lab.greynoise, 10);
    let under_way = asked(&lab.greynoise);
    for address in &under_way[1..] {
        lab.greynoise.behave_for(*address, after(3));
    }
    wait_for_status(&mut db, "greynoise", "backoff_until IS NOT NULL, in_flight", "t|1");
    lab.greynoise.behave_for(under_way[0], HttpBehaviour::normal());
    wait_until("the late answer is there", || documents(&mut db, "greynoise").len(), |stored| *stored == 1);
    assert_eq!(
        status(&mut db, "greynoise", "backoff_until IS NOT NULL, in_flight"),
        "t|0",
        "still in the rest"
    );
    lab.greynoise.behave(held());
    // One request is sent when the backoff is over.
    wait_until_held(&lab.greynoise, 1);
    rounds(&mut db, known, 3);
    assert_eq!(lab.greynoise.in_progress(), 1, "one asks whether the rest is over");
    lab.greynoise.behave(HttpBehaviour::normal());
    wait_for_the_queue(&mut db);
    assert_eq!(documents(&mut db, "greynoise").len(), 40);
    lab.assert_nothing_crashed();
}

/// The key and the backoff are independent.
#[test]
fn a_new_key_ends_the_stop_and_not_a_rest() {
    let lab = plan("limits-key").with("greynoise_max_parallel = 2").start();
    let mut db = lab.database();
    let known = known(&mut db);
    lab.greynoise.behave(held());
    let addresses = members(0..10);
    request(&mut db, "greynoise", &addresses);
    wait_until_held(&lab.greynoise, 2);
    let under_way = asked(&lab.greynoise);
    lab.greynoise.behave_for(under_way[0], after(7_000));
    lab.greynoise.behave_for(under_way[1], HttpFault::status(401));
    wait_for_status(&mut db, "greynoise", "blocked_reason LIKE 'stopped: %', in_flight", "t|0");
    lab.greynoise.behave(HttpBehaviour::normal());
    lab.greynoise.require("key", "quite-another-key");
    lab.write_key("greynoise", "quite-another-key");
    wait_for_status(&mut db, "greynoise", "blocked_reason", "NULL");
    rounds(&mut db, known, 3);
    assert_eq!(
        status(&mut db, "greynoise", "backoff_until > now() + interval '1 hour', in_flight"),
        "t|0",
        "what it asked for holds for any key"
    );
    assert_eq!(asked(&lab.greynoise).len(), 2);
    db.run("SELECT enrich.resume_provider('greynoise')");
    wait_for_the_queue(&mut db);
    assert_eq!(documents(&mut db, "greynoise").len(), 10);
}

// --- Seconds and days ---------------------------------------------------------------------------

/// While `work` runs, repeatedly locks a table that every claim writes. Each lock lasts `lasts` seconds.
fn while_somebody_locks(db: &Database<'_>, table: &str, lasts: f64, pause: f64, work: impl FnOnce()) {
    let (handle, is_over) = (db.handle(), AtomicBool::new(false));
    let lock = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; SELECT pg_sleep({lasts}); COMMIT");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = handle.session();
            while !is_over.load(Ordering::Relaxed) {
                session.run(&lock);
                session.run(&format!("SELECT pg_sleep({pause})"));
            }
        });
        work();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// The rate limits the times of sending, even if the worker is delayed between the claim and the request.
#[test]
fn a_claim_that_has_to_wait_does_not_push_two_requests_into_one_moment() {
    let lab = Plan::of("limits-rate", "maxmind,greynoise")
        .with("greynoise_rate = 10")
        .with("greynoise_daily_quota = 1000")
        .start();
    let mut db = lab.database();
    // Locks the two tables that a claim writes: jobs and daily quotas. Between two locks there is more than a
    // second without a lock.
    for (n, table) in ["enrich.provider_quota", "enrich.enrichment_job"].into_iter().enumerate() {
        lab.greynoise.forget();
        let mut session = db.another();
        while_somebody_locks(&db, table, 0.3, 1.3, || {
            request(&mut session, "greynoise", &members(100 * n..100 * n + 40));
            wait_for_the_queue(&mut session);
        });
        assert_eq!(asked(&lab.greynoise).len(), 40);
        let most = lab.greynoise.most_within(Duration::from_secs(1));
        assert!((5..=10).contains(&most), "{table}: {most} in a second");
    }
    assert_eq!(db.number("SELECT requests FROM enrich.provider_quota"), 80);
    lab.assert_nothing_crashed();
}

#[test]
fn two_databases_whose_claims_have_to_wait_share_the_rate() {
    let lab = Plan::of("limits-rate-two", "maxmind,greynoise")
        .with("greynoise_rate = 10")
        .with("greynoise_daily_quota = 1000")
        .start();
    let (mut a, mut b) = (lab.database(), lab.database());
    let (mut to_a, mut to_b) = (a.another(), b.another());
    while_somebody_locks(&a, "enrich.provider_quota", 0.25, 0.9, || {
        while_somebody_locks(&b, "enrich.provider_quota", 0.25, 1.1, || {
            request(&mut to_a, "greynoise", &members(0..30));
            request(&mut to_b, "greynoise", &members(30..60));
            wait_for_the_queue(&mut to_a);
            wait_for_the_queue(&mut to_b);
        });
    });
    assert_eq!(asked(&lab.greynoise).len(), 60);
    let most = lab.greynoise.most_within(Duration::from_secs(1));
    assert!((5..=10).contains(&most), "{most} in a second");
    let spent = |db: &mut Session| db.number("SELECT sum(requests) FROM enrich.provider_quota");
    assert_eq!(spent(&mut a) + spent(&mut b), 60);
    wait_for_status(&mut a, "greynoise", "quota_left, in_flight", "940|0");
    lab.assert_nothing_crashed();
}

/// The claim begins before midnight and ends after it.
#[test]
fn what_one_day_paid_for_does_not_leave_on_the_next() {
    const QUOTA: usize = 5;
    let clock = Clock::at_noon("limits-midnight");
    let lab = Plan::of("limits-midnight", "maxmind,greynoise")
        .with(&format!("greynoise_daily_quota = {QUOTA}"))
        .options(|options| options.with_clock(&clock))
        .start();
    let mut db = lab.database();
    let mut holder = db.another();
    // The worker runs, and has swept.
    request(&mut db, "greynoise", &members(0..1));
    wait_for_the_queue(&mut db);
    clock.set(0, 86_396);
    holder.run("BEGIN; LOCK TABLE enrich.provider_quota IN EXCLUSIVE MODE");
    request(&mut db, "greynoise", &members(1..21));
    wait_until(
        "the claim waits",
        || {
            db.number(
                "SELECT count(*) FROM pg_locks
                 WHERE relation = 'enrich.provider_quota'::regclass AND mode = 'RowExclusiveLock' AND NOT granted",
            )
        },
        |waiting| *waiting == 1,
    );
    clock.set(1, 1);
    holder.run("ROLLBACK");
    wait_for_status(&mut db, "greynoise", "quota_left, in_flight", "0|0");
    wait_until("the answers are written", || documents(&mut db, "greynoise").len(), |n| *n == 1 + QUOTA);
    assert_eq!(
        asked(&lab.greynoise).len(),
        1 + QUOTA,
        "one on the first day, and no more than a day's quota"
    );
    assert_eq!(
        db.rows("SELECT requests, cluster_spent FROM enrich.provider_quota ORDER BY day"),
        ["1|1", "5|5"],
        "nothing left on the first day"
    );
    lab.assert_nothing_crashed();
}

/// The other databases wait for this database, because it may have spent quota that they do not know.
#[test]
fn a_database_that_gets_its_worker_late_is_heard_before_the_quota_is_spent_on() {
    let clock = Clock::at_noon("limits-late-ledger");
    let lab = Plan::of("limits-late-ledger", "maxmind,greynoise")
        .with("greynoise_daily_quota = 10")
        .options(|options| options.with_clock(&clock))
        .start();
    let mut early = lab.database();
    let mut late = lab.database();
    request(&mut early, "greynoise", &members(0..1));
    wait_for_the_queue(&mut early);
    request(&mut late, "greynoise", &members(1..7));
    wait_for_the_queue(&mut late);
    let (name, late_name) = (early.name.clone(), late.name.clone());
    drop((early, late));
    lab.cluster.stop_fast();
    lab.cluster.configure(&[format!("cowrie_enrich.databases = '{name}'")]);
    lab.cluster.start_again();
    let mut early = lab.cluster.session(&name);
    let mut late = lab.cluster.session(&late_name);
    // A database without a worker is not waited for.
    wait_for_status(&mut early, "greynoise", "blocked_reason, quota_left", "NULL|9");

    late.run("BEGIN; LOCK TABLE enrich.provider_quota IN ACCESS EXCLUSIVE MODE");
    lab.reconfigure(&["databases = ''"]);
    let waits = "waiting until each database has reported how many requests the database sent today";
    wait_for_status(&mut early, "greynoise", "blocked_reason", waits);
    request(&mut early, "greynoise", &members(100..130));
    wait_until(
        "the requests are taken in",
        || early.number("SELECT count(*) FROM enrich.enrichment_request"),
        |left| *left == 0,
    );
    assert_eq!(status(&mut early, "greynoise", "blocked_reason, quota_left"), format!("{waits}|9"));
    assert_eq!(asked(&lab.greynoise).len(), 7);
    late.run("ROLLBACK");
    wait_for_status(&mut early, "greynoise", "blocked_reason, quota_left", "the daily quota is spent|0");
    wait_for_status(&mut early, "greynoise", "in_flight", "0");
    assert_eq!(asked(&lab.greynoise).len(), 10);
    lab.assert_nothing_crashed();
}

// --- Lookups without a request -----------------------------------------------------------------------

/// Adds addresses with a fresh answer of GreyNoise to the inventory.
fn answer_in_the_inventory(db: &mut Session, number: usize) {
    db.run(&format!(
        "INSERT INTO enrich.ip_inventory (ip_address, enrichment)
         SELECT '70.0.0.0'::inet + n,
                jsonb_build_object(
                    'greynoise', jsonb_build_object('noise', false, 'riot', false, 'cached_at', now()),
                    '_meta', jsonb_build_object('greynoise', jsonb_build_object('state', 'value')))
         FROM generate_series(1, {number}) n"
    ));
    assert_eq!(
        db.number(
            "SELECT count(*) FROM enrich.ip_inventory
             WHERE enrich.is_source_fresh(enrichment, 'greynoise', 1000, 1000)"
        ),
        number as i64
    );
}

fn batches(db: &mut Session) -> i64 {
    db.number(
        "SELECT batches FROM enrich.worker_status() WHERE database = current_database() AND role = 'worker'",
    )
}

/// There are more addresses than one transaction writes, and one prefix has more addresses than one transaction
/// handles.
#[test]
fn twelve_thousand_fresh_answers_that_are_requested_again_are_served_and_nobody_is_asked() {
    const MANY: usize = 12_000;
    let lab = plan("limits-fresh").start();
    let mut db = lab.database();
    let known = known(&mut db);
    answer_in_the_inventory(&mut db, MANY);
    let before = batches(&mut db);
    db.run(
        "SELECT count(enrich.request_enrichment(ip_address, 'greynoise')) FROM enrich.ip_inventory
         WHERE family(ip_address) = 4",
    );
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 0);
    assert_eq!(db.number("SELECT count(*) FROM enrich.job_address"), 0);
    let batches = batches(&mut db) - before;
    assert!((24..100).contains(&batches), "{batches} transactions");
    rounds(&mut db, known, 1);
    assert_eq!(status(&mut db, "greynoise", "requests, answers, dead_letters"), "0|0|0");
    lab.assert_nothing_crashed();
}

/// The jobs are due, but no request created them. This happens if the queue was restored, or if sessions were
/// locked.
#[test]
fn due_jobs_that_are_answered_already_are_served_many_at_a_time_and_the_others_asked_by_priority() {
    const MANY: usize = 3_000;
    let lab = plan("limits-due").with("greynoise_max_parallel = 1").with("worker_enabled = off").start();
    let mut db = lab.database();
    answer_in_the_inventory(&mut db, MANY);
    // Some of them need a request.
    db.run(&format!(
        "INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         SELECT 'greynoise', 'host', host(ip_address), 1000, now() FROM enrich.ip_inventory;
         INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         SELECT 'greynoise', 'host', host(a), n, now() FROM unnest({}) WITH ORDINALITY u(a, n);
         INSERT INTO enrich.job_address (provider, ip_address, lookup_kind, lookup_key)
         SELECT provider, lookup_key::inet, lookup_kind, lookup_key FROM enrich.enrichment_job",
        array(&members(1000..1020))
    ));
    let transactions = |db: &mut Session| db.number("SELECT pg_current_xact_id()::text");
    let before = transactions(&mut db);
    lab.reconfigure(&["worker_enabled = on"]);
    wait_for_the_queue(&mut db);
    let spent = transactions(&mut db) - before;
    assert!(spent < 400, "{spent} transactions for {MANY} jobs and twenty requests");
    let mut by_priority = members(1000..1020);
    by_priority.reverse();
    assert_eq!(asked(&lab.greynoise), by_priority);
    assert_eq!(count(&mut db, "greynoise", "answers + absent"), 20);
    lab.assert_nothing_crashed();
}
