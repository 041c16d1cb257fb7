//! The queue: requests become jobs once, each job is leased to one worker, and a job that fails too often becomes a
//! dead letter.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Barrier;

use cowrie_enrich_upstreams::{Behaviour, Fault, synthetic_asn};
use server_tests::cymru::{
    Lab, array, assert_placed, member, members, provider, queue, state, wait_for_the_queue, worker_pid,
};
use server_tests::database::restored_from;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::installation::workspace;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Options, Session, database, wait_until};

// --- The statements, without a worker --------------------------------------------------------

/// The statement that the worker runs, prepared under its own name.
fn prepare(session: &mut Session, name: &str, types: &str) {
    let path = workspace().join(format!("sql/queries/queue/{name}.sql"));
    let text = std::fs::read_to_string(&path).expect("the statement is there");
    session.run(&format!("PREPARE {name}({types}) AS {}", text.replace("@extschema@", "enrich")));
}

/// A worker whose statements the test runs.
struct Hand {
    session: Session,
    number: i64,
}

impl Hand {
    fn of(mut session: Session, number: i64) -> Self {
        prepare(&mut session, "jobs_create", "bigint, float8, bigint, text[], bool[], int[], int[], bool[]");
        prepare(
            &mut session,
            "jobs_claim",
            "text, bigint, float8, bigint, integer, integer, boolean, boolean, boolean",
        );
        prepare(&mut session, "jobs_release", "bigint");
        prepare(&mut session, "jobs_hold", "text, text[], bigint");
        prepare(
            &mut session,
            "jobs_fail",
            "text, text[], text[], boolean[], float8, integer, timestamptz, float8",
        );
        Self { session, number }
    }

    /// Creates jobs from requests. Returns the number of requests, and the lookups for which an answer is already
    /// stored.
    fn takes_in(&mut self) -> Vec<String> {
        let rows = self.session.rows(&format!(
            "EXECUTE jobs_create(10000, 60, {}, '{{cymru,greynoise}}', '{{t,f}}', '{{1000,1000}}', '{{1000,1000}}', '{{t,f}}')",
            self.number
        ));
        // The result also has rows for providers that got jobs.
        let fields: Vec<Vec<&str>> = rows.iter().map(|row| row.split('|').collect()).collect();
        let served: Vec<String> = fields
            .iter()
            .filter(|row| row[2] != "NULL")
            .map(|row| format!("{}|{}", row[0], row[2]))
            .collect();
        if served.is_empty() { vec![format!("{}|NULL", fields[0][0])] } else { served }
    }

    /// Returns `lookup_key|address` of each job.
    fn claims(&mut self, most: u64, seconds: f64) -> Vec<String> {
        self.claims_as(most, seconds, false)
    }

    fn claims_as(&mut self, most: u64, seconds: f64, probe: bool) -> Vec<String> {
        self.session.rows(&format!(
            "EXECUTE jobs_claim('cymru', {most}, {seconds}, {}, 1000, 1000, true, {probe}, true)",
            self.number
        ))
    }

    /// `counts` says whether the failure counts as an attempt; `None` if it never counts.
    fn fails(
        &mut self,
        lookup_key: &str,
        counts: impl Into<Option<bool>>,
        last_success: &str,
    ) -> Vec<String> {
        let counts = counts.into().map_or("NULL".to_owned(), |counts| counts.to_string());
        self.session.rows(&format!(
            "EXECUTE jobs_fail('cymru', '{{{lookup_key}}}', '{{it broke}}', '{{{counts}}}', 60, 3, {last_success}, 0.5)"
        ))
    }
}

fn status(session: &mut Session) -> String {
    session.one("SELECT requested, jobs, due, leased, delayed, addresses, dead FROM queue_status WHERE provider = 'cymru'")
}

#[test]
fn requests_become_jobs_once_and_an_address_waits_once() {
    let mut db = database();
    for priority in [0, 5, 3] {
        db.run(&format!("SELECT request_enrichment('60.0.0.1', 'cymru', {priority})"));
    }
    db.run(
        "SELECT request_enrichment('60.0.0.2', 'cymru'), request_enrichment('60.0.1.1', 'cymru', -1),
                   request_enrichment('::ffff:60.0.0.1', 'cymru'), request_enrichment('2a10::1', 'cymru'),
                   request_enrichment('2a10::2:0:0:1', 'cymru'), request_enrichment('2a10:0:1::1', 'cymru')",
    );
    assert_eq!(status(&mut db), "9|0|0|0|0|0|0");
    let mut hand = Hand::of(db.another(), 1);
    assert_eq!(hand.takes_in(), ["9|NULL"]);
    assert_eq!(status(&mut db), "0|4|4|0|0|6|0");
    assert_eq!(
        db.rows(
            "SELECT lookup_key, priority, attempts FROM enrichment_job ORDER BY priority DESC, lookup_key"
        ),
        ["60.0.0.0/24|5|0", "2a10:0:1::/48|0|0", "2a10::/48|0|0", "60.0.1.0/24|-1|0"]
    );
    // Requested again while they wait, and while one is leased.
    db.run("SELECT request_enrichment('60.0.0.1', 'cymru', 1), request_enrichment('60.0.1.1', 'cymru', 9)");
    assert_eq!(hand.claims(1, 60.0).len(), 1);
    assert_eq!(hand.takes_in(), ["2|NULL"]);
    assert_eq!(status(&mut db), "0|4|3|1|0|6|0");
    assert_eq!(
        db.rows("SELECT lookup_key, priority FROM enrichment_job ORDER BY priority DESC, lookup_key LIMIT 2"),
        ["60.0.1.0/24|9", "60.0.0.0/24|5"]
    );
    assert_eq!(hand.takes_in(), ["0|NULL"]);
    assert_eq!(db.one("SELECT oldest_age IS NOT NULL FROM queue_status WHERE provider = 'cymru'"), "t");
    assert_eq!(db.one("SELECT oldest_age IS NULL FROM queue_status WHERE provider = 'spur'"), "t");
}

#[test]
fn a_request_names_one_address_as_the_inventory_spells_it() {
    let mut db = database();
    for wrong in
        ["60.0.0.0/24", "60.0.0.1/31", "2a10::/48", "2a10::1/127", "::ffff:60.0.0.1", "::ffff:60.0.0.0/120"]
    {
        let refusal = db.refused(&format!(
            "INSERT INTO enrichment_request (ip_address, provider) VALUES ('{wrong}', 'cymru')"
        ));
        assert_eq!(refusal.code, "23514", "{wrong}");
    }
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), 0);
    queue(&mut db, &members(0..1));
    assert_eq!(status(&mut db), "1|0|0|0|0|0|0");
}

#[test]
fn a_request_that_is_rolled_back_was_never_there() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&format!("BEGIN; {}; ROLLBACK", COWRIE.insert(&[("a", Some("60.0.0.1"))])));
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT s; {}; SELECT request_enrichment('60.0.2.1', 'cymru'); ROLLBACK TO s; COMMIT",
        COWRIE.insert(&[("b", Some("60.0.1.1"))]),
        COWRIE.insert(&[("c", Some("60.0.3.1"))])
    ));
    assert_eq!(db.rows("SELECT DISTINCT ip_address FROM enrichment_request"), ["60.0.1.1"]);
}

#[test]
fn other_providers_are_asked_by_address() {
    let mut db = database();
    db.run("SELECT request_enrichment('60.0.0.1', 'greynoise'), request_enrichment('60.0.0.2', 'greynoise')");
    Hand::of(db.another(), 1).takes_in();
    assert_eq!(
        db.rows("SELECT provider, lookup_kind, lookup_key FROM enrichment_job ORDER BY 3"),
        ["greynoise|host|60.0.0.1", "greynoise|host|60.0.0.2"]
    );
}

/// The result equals the text that the server writes, for addresses of every form.
#[test]
fn a_lookup_key_is_written_as_the_server_writes_the_address() {
    let mut db = database();
    db.run(
        "CREATE TABLE shapes AS
             SELECT '0.0.0.0'::inet + n AS ip FROM generate_series(0, 4294967295, 65537 * 13) n
             UNION ALL
             -- Each of the eight groups is zero or not.
             SELECT format('%s:%s:%s:%s:%s:%s:%s:%s',
                 g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8])::inet
             FROM generate_series(0, 255) n, unnest('{1,ab,c0de,ffff}'::text[]) AS value,
                 LATERAL (SELECT array_agg(CASE n >> i & 1 WHEN 1 THEN value ELSE '0' END) AS g
                          FROM generate_series(0, 7) i) groups;
         DELETE FROM shapes WHERE ip <> canonical_address(ip)",
    );
    assert!(db.number("SELECT count(*) FROM shapes WHERE family(ip) = 6") > 1_000);
    assert_eq!(
        db.rows(
            "SELECT ip, k FROM shapes, lookup_key_of('spur', ip) k WHERE (k.lookup_kind, k.lookup_key) <> ('host', host(ip)) LIMIT 3"
        ),
        [""; 0]
    );
    assert_eq!(
        db.rows(
            "SELECT ip, k FROM shapes, lookup_key_of('cymru', ip) k,
                 network(set_masklen(ip, CASE family(ip) WHEN 4 THEN 24 ELSE 48 END)) AS block
             WHERE (k.lookup_kind, k.lookup_key) <> ('prefix', block::text) LIMIT 3"
        ),
        [""; 0]
    );
    let refused =
        "SELECT length, block FROM shapes, unnest('{0,8,24,31,48,64,95,96,97,112,127}'::int[]) AS length,
             network(set_masklen(ip, LEAST(length, CASE family(ip) WHEN 4 THEN 31 ELSE 127 END))) AS block
         WHERE NOT is_lookup_key('prefix', block::text) LIMIT 3";
    assert_eq!(db.rows(refused), [""; 0]);
}

/// The table refuses such a job. Otherwise each claim of the job would fail.
#[test]
fn a_lookup_that_cannot_be_made_is_refused() {
    let mut db = database();
    for (kind, key) in [
        ("host", "60.0.0.1/32"),
        ("host", "60.0.0.0/24"),
        ("host", "2A10::1"),
        ("host", "::ffff:60.0.0.1"),
        ("prefix", "60.0.0.1"),
        ("prefix", "60.0.0.1/32"),
        ("prefix", "60.0.0.1/24"),
        ("prefix", "60.0.0/24"),
        ("asn", "AS15169"),
        ("asn", "0"),
        ("asn", "015169"),
        ("asn", "4294967296"),
        ("prefix", "15169"),
        ("host", "15169"),
        ("", ""),
        ("host", "no address"),
    ] {
        for insert in [
            "enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at) VALUES ('cymru', $, 0, now())",
            "job_address (provider, ip_address, lookup_kind, lookup_key) VALUES ('cymru', '60.0.0.1', $)",
            "dead_letter (provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
             VALUES ('cymru', '60.0.0.1', $, 0, 3, 'tried', now())",
        ] {
            let insert = format!("INSERT INTO {}", insert.replace('$', &format!("'{kind}', '{key}'")));
            let refusal = db.refused(&insert);
            assert_eq!(refusal.code, "23514", "{insert}");
            assert!(refusal.message.contains("lookup_key_check"), "{}", refusal.message);
        }
    }
}

#[test]
fn lookup_of_a_network_has_no_address() {
    let mut db = database();
    for insert in [
        "job_address (provider, ip_address, lookup_kind, lookup_key) VALUES ('cymru', '60.0.0.1', 'asn', '15169')",
        "dead_letter (provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
         VALUES ('cymru', '60.0.0.1', 'asn', '15169', 0, 3, 'tried', now())",
        "dead_letter (provider, asn_number, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
         VALUES ('cymru', 15169, 'host', '60.0.0.1', 0, 3, 'tried', now())",
    ] {
        assert_eq!(db.refused(&format!("INSERT INTO {insert}")).code, "23514", "{insert}");
    }
}

/// A request contains either addresses or networks.
#[test]
fn claim_returns_jobs_of_the_kind_of_the_most_urgent_one() {
    let mut db = database();
    queue(&mut db, &members(0..3));
    db.run(
        "SELECT request_enrichment(15169), request_enrichment(64512 + 1000000), request_enrichment(15169);
         UPDATE enrichment_request SET priority = 5 WHERE asn_number = 15169",
    );
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    assert_eq!(hand.claims(10, 60.0), ["15169|NULL", "1064512|NULL"]);
    let addresses: Vec<String> = hand.claims(10, 60.0).iter().map(|job| job.replace('|', " ")).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    assert_eq!(hand.claims(10, 60.0), [""; 0]);
    // Networks wait while their lookups are switched off.
    hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
    let without_networks = "EXECUTE jobs_claim('cymru', 10, 60, 1, 1000, 1000, true, false, false)";
    assert_eq!(hand.session.rows(without_networks).len(), 3);
    assert_eq!(hand.session.rows(without_networks).len(), 0);
}

#[test]
fn parallel_claims_never_get_the_same_job() {
    let mut db = database();
    let addresses = members(0..2_000);
    queue(&mut db, &addresses);
    Hand::of(db.another(), 1).takes_in();
    const HANDS: i64 = 6;
    let handle = db.handle();
    let start = Barrier::new(HANDS as usize);
    let claimed: Vec<Vec<String>> = std::thread::scope(|scope| {
        let hands: Vec<_> = (1..=HANDS)
            .map(|number| {
                let (handle, start) = (&handle, &start);
                scope.spawn(move || {
                    let mut hand = Hand::of(handle.session(), number);
                    let mut all = Vec::new();
                    start.wait();
                    loop {
                        let some = hand.claims(37, 3600.0);
                        // Locks of others may hide the remaining jobs for a moment. A worker continues while it gets
                        // some.
                        if some.is_empty() {
                            break all;
                        }
                        assert!(some.len() <= 37);
                        all.extend(some);
                    }
                })
            })
            .collect();
        hands.into_iter().map(|hand| hand.join().expect("no claim fails")).collect()
    });
    let mut all: Vec<String> = claimed.concat();
    let before = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), before, "a job was claimed twice");
    assert_eq!(before, 2_000);
    let asked: BTreeSet<IpAddr> = all
        .iter()
        .map(|row| row.split('|').nth(1).expect("two columns").parse().expect("an address"))
        .collect();
    assert_eq!(asked, addresses.into_iter().collect());
}

#[test]
fn expired_lease_is_claimed_again_and_a_late_holder_is_told() {
    let mut db = database();
    queue(&mut db, &members(0..3));
    let mut first = Hand::of(db.another(), 1);
    let mut second = Hand::of(db.another(), 2);
    first.takes_in();
    let claimed = first.claims(10, 0.2);
    assert_eq!(claimed.len(), 3);
    let again = wait_until("the lease expires", || second.claims(10, 3600.0), |jobs| !jobs.is_empty());
    assert_eq!(again.iter().collect::<BTreeSet<_>>(), claimed.iter().collect::<BTreeSet<_>>());
    let held = |hand: &mut Hand| {
        let keys: Vec<&str> =
            claimed.iter().map(|row| row.split('|').next().expect("a lookup key")).collect();
        let (keys, number) = (keys.join(","), hand.number);
        hand.session.rows(&format!("EXECUTE jobs_hold('cymru', '{{{keys}}}', {number})")).len()
    };
    assert_eq!((held(&mut first), held(&mut second)), (0, 3));
    // A third worker that takes over does not have to wait.
    let mut third = Hand::of(db.another(), 3);
    assert_eq!(third.claims(10, 3600.0).len(), 0);
    third.session.run("EXECUTE jobs_release(3)");
    assert_eq!(third.claims(10, 3600.0).len(), 3);
    third.session.run("EXECUTE jobs_release(3)");
    assert_eq!(held(&mut third), 3, "one's own leases stay");
}

#[test]
fn a_job_fails_with_a_growing_pause_and_dies_after_max_attempts() {
    let mut db = database();
    db.run(
        "INSERT INTO enrichment_request (ip_address, provider, priority) VALUES
            ('60.0.0.1', 'cymru', 4), ('60.0.0.2', 'cymru', 1)",
    );
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    let mut pauses = Vec::new();
    for attempt in 1..=2 {
        hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
        hand.claims(1, 60.0);
        assert_eq!(hand.fails("60.0.0.0/24", true, "NULL"), [""; 0]);
        assert_eq!(
            db.one("SELECT attempts, leased_by, last_error, failed_at IS NOT NULL FROM enrichment_job"),
            format!("{attempt}|NULL|it broke|t")
        );
        pauses.push(db.number("SELECT round(extract(epoch FROM due_at - failed_at)) FROM enrichment_job"));
        assert_eq!(status(&mut db), "0|1|0|0|1|2|0");
    }
    assert_eq!(pauses, [60, 120]);
    // The provider was down for every lookup, so this failure does not count as an attempt.
    let down = db.one("SELECT quote_literal(failed_at - interval '1 s') FROM enrichment_job");
    hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
    hand.claims(1, 60.0);
    assert_eq!(hand.fails("60.0.0.0/24", false, &down), [""; 0]);
    assert_eq!(db.one("SELECT attempts FROM enrichment_job"), "2");
    // The provider answered others meanwhile, so the failure counts.
    let up = db.one("SELECT quote_literal(failed_at + interval '1 ms') FROM enrichment_job");
    hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
    hand.claims(1, 60.0);
    assert_eq!(hand.fails("60.0.0.0/24", false, &up), ["60.0.0.1|NULL|it broke", "60.0.0.2|NULL|it broke"]);
    assert_eq!(status(&mut db), "0|0|0|0|0|0|2");
    assert_eq!(
        db.rows(
            "SELECT ip_address, lookup_kind, lookup_key, priority, attempts, last_error FROM dead_letter ORDER BY 1"
        ),
        ["60.0.0.1|prefix|60.0.0.0/24|4|3|it broke", "60.0.0.2|prefix|60.0.0.0/24|4|3|it broke"]
    );
    assert_eq!(db.number("SELECT retry_dead_letters('spur')"), 0);
    let refusal = db.refused("SELECT retry_dead_letters('nope')");
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("22023", "invalid provider"));
    assert_eq!(db.number("SELECT retry_dead_letters('cymru')"), 2);
    assert_eq!(status(&mut db), "2|0|0|0|0|0|0");
    hand.takes_in();
    assert_eq!(db.one("SELECT attempts, priority FROM enrichment_job"), "0|4");
    assert_eq!(db.number("SELECT retry_dead_letters()"), 0);
}

/// Failures that never count: the provider throttled all requests, or none was sent. Answers to other lookups do not
/// matter.
#[test]
fn what_never_counts_costs_no_attempt_and_hides_no_failure() {
    let mut db = database();
    queue(&mut db, &members(0..1));
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    let fails = |hand: &mut Hand, counts: Option<bool>, last_success: &str| {
        hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
        assert_eq!(hand.claims(1, 60.0).len(), 1);
        hand.fails("60.0.0.0/24", counts, last_success)
    };
    fails(&mut hand, Some(true), "NULL");
    let row = "SELECT attempts, leased_by, last_error FROM enrichment_job";
    let failed = db.one("SELECT quote_literal(failed_at) FROM enrichment_job");
    for _ in 0..5 {
        assert_eq!(fails(&mut hand, None, "clock_timestamp()"), [""; 0]);
        assert_eq!(db.one(row), "1|NULL|it broke");
    }
    assert_eq!(db.one(&format!("SELECT failed_at = {failed} FROM enrichment_job")), "t");
    // The provider has answered other lookups after the last failure that could count.
    let since = format!("{failed}::timestamptz + interval '1 us'");
    assert_eq!(fails(&mut hand, Some(false), &since), [""; 0]);
    assert_eq!(db.one(row), "2|NULL|it broke");
    // The limit of attempts was lowered. This alone makes no dead letter.
    hand.session.run("UPDATE enrich.enrichment_job SET attempts = 7");
    assert_eq!(fails(&mut hand, None, "clock_timestamp()"), [""; 0]);
    assert_eq!(fails(&mut hand, Some(false), "'2001-01-01'"), [""; 0]);
    assert_eq!(fails(&mut hand, Some(true), "NULL"), ["60.0.0.7|NULL|it broke"]);
}

/// The worker does not test a provider with the lookup of the highest priority, because the provider may be unable to
/// answer it.
#[test]
fn a_probe_asks_about_what_has_waited_longest() {
    let mut db = database();
    queue(&mut db, &members(0..6));
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    db.run(
        "UPDATE enrichment_job SET priority = x.n, due_at = now() - interval '1 h' + x.n * interval '1 min'
         FROM (SELECT lookup_key AS key, row_number() OVER (ORDER BY lookup_key) AS n FROM enrichment_job) x
         WHERE lookup_key = key",
    );
    let mut by_age = db.rows("SELECT lookup_key FROM enrichment_job ORDER BY due_at");
    let mut claims = |probe| hand.claims_as(1, 60.0, probe)[0].split('|').next().map(str::to_owned);
    assert_eq!(claims(true).as_ref(), by_age.first());
    assert_eq!(claims(false), by_age.pop());
    assert_eq!(claims(true).as_ref(), by_age.get(1));
    assert_eq!(claims(false), by_age.pop());
    // Several jobs are returned in the order of their priority.
    let both: Vec<String> = hand
        .claims(2, 60.0)
        .iter()
        .map(|row| row.split('|').next().expect("a lookup key").to_owned())
        .collect();
    by_age.reverse();
    assert_eq!(both, by_age[..2]);
}

#[test]
fn after_a_failure_another_address_of_the_block_is_asked_about() {
    let mut db = database();
    let addresses: Vec<IpAddr> = (1..=50).map(|host| member(0, host)).collect();
    queue(&mut db, &addresses);
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        hand.session.run("UPDATE enrich.enrichment_job SET due_at = now()");
        asked.extend(hand.claims(1, 60.0));
        hand.session.run("UPDATE enrich.enrichment_job SET attempts = attempts + 1");
    }
    assert!(asked.len() > 1, "{asked:?}");
}

/// A million jobs would take minutes to insert. This test shows that a claim reads only the jobs that it claims.
#[test]
fn a_claim_costs_the_same_however_long_the_queue_is() {
    let mut db = database();
    db.run(
        "INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         SELECT 'cymru', 'prefix', network(set_masklen('60.0.0.0'::inet + n * 256, 24)), n % 3, now()
         FROM generate_series(0, 49999) n;
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         SELECT provider, set_masklen(lookup_key::inet + 7, 32), lookup_kind, lookup_key FROM enrichment_job;
         ANALYZE enrichment_job; ANALYZE job_address",
    );
    let mut hand = Hand::of(db.another(), 1);
    for round in 0..12 {
        let plan = hand.session.rows(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE jobs_claim('cymru', 500, 60, 1, 1000, 1000, true, false, true)",
        );
        let plan: serde_json::Value = serde_json::from_str(&plan.join("\n")).expect("a plan");
        let of = |kind: &str| plan[0]["Plan"][format!("Shared {kind} Blocks")].as_u64().expect("blocks");
        let blocks = of("Hit") + of("Read");
        // 500 jobs, each with a few index descents and one or two heap rows.
        assert!(blocks < 30_000, "claim {round} touched {blocks} blocks");
    }
}

// --- With a worker ---------------------------------------------------------------------------

/// With such a long naptime, the worker finds only work whose commit has woken it.
fn lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 1h"))
}

fn asleep(name: &str) -> Lab {
    Lab::start(Options::named(name))
}

fn asked(lab: &Lab) -> Vec<IpAddr> {
    lab.whois.record().questions().collect()
}

#[test]
fn a_direct_insert_wakes_the_worker_when_it_commits() {
    let lab = lab("queue-wake");
    let mut db = lab.database();
    queue(&mut db, &members(0..1));
    wait_for_the_queue(&mut db);
    for block in 1..10 {
        db.run("BEGIN");
        queue(&mut db, &members(block..block + 1));
        assert_eq!(lab.whois.record().questions_total(), block, "before the commit nobody knows");
        db.run("COMMIT");
        wait_for_the_queue(&mut db);
    }
    assert_placed(&mut db, &members(0..10));
    // Also by a function and by a session.
    db.run("SELECT request_enrichment('60.0.0.200', 'cymru')");
    wait_for_the_queue(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("a", Some(&member(500, 1).to_string()))]));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &[member(500, 1)]);
}

#[test]
fn a_rolled_back_session_is_asked_about_by_nobody() {
    let lab = lab("queue-rollback");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    db.run(&format!("BEGIN; {}; ROLLBACK", SUMMARIES.insert(&[("a", Some("60.0.0.1"))])));
    db.run("BEGIN; SELECT request_enrichment('60.0.1.1', 'cymru'); ROLLBACK");
    db.run(&SUMMARIES.insert(&[("b", Some("60.0.2.1"))]));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab), ["60.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn bogons_that_somebody_inserts_never_leave_the_machine() {
    let lab = lab("queue-bogons");
    let mut db = lab.database();
    db.run(
        "INSERT INTO enrichment_request (ip_address, provider)
         SELECT b::inet, 'cymru' FROM unnest('{10.0.0.1,192.0.2.1,127.0.0.1,0.0.0.0,255.255.255.255,224.0.0.1,
             100.64.0.1,fe80::1,::1,2001:db8::1,ff02::1,fc00::1}'::text[]) b",
    );
    let spelling =
        "INSERT INTO enrichment_request (ip_address, provider) VALUES ('::ffff:10.0.0.1', 'cymru')";
    assert_eq!(db.refused(spelling).code, "23514");
    // Inserted as jobs, without the checks of requests.
    db.run(
        "INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
         VALUES ('cymru', 'prefix', '10.1.2.0/24', 99, now()), ('cymru', 'prefix', '60.0.0.0/24', 1, now());
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         VALUES ('cymru', '10.1.2.3', 'prefix', '10.1.2.0/24'), ('cymru', '60.0.0.1', 'prefix', '60.0.0.0/24')",
    );
    queue(&mut db, &members(50..51));
    wait_until("the public ones are answered", || asked(&lab).len(), |n| *n >= 2);
    wait_until(
        "and written down",
        || (db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NOT NULL"), state(&mut db)),
        |(n, _)| *n == 2,
    );
    let asked: BTreeSet<IpAddr> = asked(&lab).into_iter().collect();
    assert_eq!(asked, BTreeSet::from([member(0, 1), member(50, 7)]));
    wait_until(
        "no request is left",
        || db.number("SELECT count(*) FROM enrichment_request"),
        |requests| *requests == 0,
    );
    db.run("DELETE FROM enrichment_job; DELETE FROM job_address");
}

#[test]
fn higher_priority_is_asked_sooner() {
    let lab = asleep("queue-priority");
    let mut db = lab.database();
    let of = |block: usize| member(block, 7);
    for (block, priority) in [(0, 0), (1, 5), (2, -3), (3, 100), (4, 5), (5, 0)] {
        db.run(&format!("SELECT request_enrichment('{}', 'cymru', {priority})", of(block)));
    }
    lab.reconfigure(&["cymru_max_connections = 1", "cymru_batch_size = 1", "worker_enabled = on"]);
    wait_for_the_queue(&mut db);
    let order: Vec<i64> = asked(&lab)
        .into_iter()
        .map(|address| {
            let block = (0..6).find(|block| of(*block) == address).expect("one of them");
            [0, 5, -3, 100, 5, 0][block]
        })
        .collect();
    assert_eq!(order, [100, 5, 5, 0, 0, -3]);
}

#[test]
fn leases_of_a_dead_worker_are_released_when_the_next_one_starts() {
    let lab = asleep("queue-release");
    let mut db = lab.database();
    let addresses = members(0..20);
    queue(&mut db, &addresses);
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    assert_eq!(hand.claims(20, 36_000.0).len(), 20);
    assert_eq!(status(&mut db), "0|20|0|20|0|20|0");
    lab.reconfigure(&["worker_enabled = on"]);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
}

#[test]
fn lookups_die_with_their_last_error_and_are_brought_back() {
    let lab = lab("queue-dead");
    lab.reconfigure(&["max_attempts = 2", "retry_base = 5ms"]);
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    lab.whois.behave(Fault::Missing { every: 1 });
    let addresses = members(0..4);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    wait_for_the_queue(&mut db);
    assert_eq!(status(&mut db), "0|0|0|0|0|0|4");
    for row in db.rows("SELECT provider, attempts, last_error FROM dead_letter") {
        assert!(row.starts_with("cymru|2|") && row.len() > "cymru|2|".len(), "{row}");
    }
    let record = lab.whois.record();
    for address in &addresses {
        assert_eq!(record.questions().filter(|asked| asked == address).count(), 2, "{address}");
    }
    assert_eq!(provider(&mut db, "dead_letters"), 4);
    // The inventory has the reason why the value is missing.
    assert_eq!(
        db.rows("SELECT DISTINCT enrichment #>> '{_meta,cymru,state}', enrichment #>> '{_meta,cymru,error}' <> '' FROM ip_inventory"),
        ["failed|t"]
    );
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL"), 4);
    lab.whois.behave(Behaviour::normal());
    assert_eq!(db.number("SELECT retry_dead_letters('cymru')"), 4);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL"), 0);
    assert_eq!(db.rows("SELECT DISTINCT enrichment #>> '{_meta,cymru,state}' FROM ip_inventory"), ["value"]);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// Stops the database's worker, so that another one starts.
fn restart_worker(db: &mut Database<'_>) {
    let pid = worker_pid(db);
    db.run(&format!("SELECT pg_terminate_backend({pid})"));
}

#[test]
fn the_sweep_finds_what_no_request_announces() {
    let lab = asleep("queue-sweep");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..10);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    db.run("DELETE FROM enrichment_request");
    lab.reconfigure(&["worker_enabled = on"]);
    // An empty queue proves nothing, because the sweep may not have begun.
    wait_until(
        "the sweep has found them",
        || (db.number("SELECT count(*) FROM ip_inventory WHERE current_asn IS NOT NULL"), state(&mut db)),
        |(n, _)| *n == 10,
    );
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL"), 0);
    // The next sweep requests nothing again.
    let before = lab.whois.record().questions_total();
    restart_worker(&mut db);
    queue(&mut db, &members(100..101));
    wait_until("there is another worker", || asked(&lab).contains(&member(100, 7)), |done| *done);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().questions_total(), before + 1);
}

#[test]
fn what_a_prepared_transaction_queued_is_found() {
    let lab = lab("queue-prepared");
    let mut db = lab.database();
    lab.reconfigure(&["worker_naptime = 100ms"]);
    SUMMARIES.create_attached(&mut db);
    queue(&mut db, &members(50..51));
    wait_for_the_queue(&mut db);
    let addresses = members(0..5);
    db.run("BEGIN");
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    db.run("PREPARE TRANSACTION 'p'");
    assert_eq!(lab.whois.record().questions_total(), 1);
    db.run("COMMIT PREPARED 'p'");
    wait_until(
        "the sessions are complete",
        || db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NOT NULL"),
        |n| *n == 5,
    );
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn twelve_thousand_addresses_of_sixty_blocks_need_sixty_lookups() {
    let lab = lab("queue-many");
    let mut db = lab.database();
    // More jobs than one transaction creates, and more answers than one stores.
    let addresses: Vec<IpAddr> = (0..12_000).map(|n| member(n % 60, (n / 60 + 1) as u8)).collect();
    for chunk in addresses.chunks(4_000) {
        db.run(&format!(
            "INSERT INTO enrichment_request (ip_address, provider) SELECT unnest({}), 'cymru'",
            array(chunk)
        ));
    }
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(lab.whois.record().questions_total(), 60);
    assert_counts_are_exact(&mut db, &[]);
}

/// `is_bogon` is computed when a row is written, so the sweep can find bogons whose `is_bogon` is false. The sweep
/// continues after such rows, and ends.
#[test]
fn the_sweep_sees_what_lies_behind_ten_thousand_bogons_that_are_not_marked() {
    let lab = asleep("queue-sweep-bogons");
    let mut db = lab.database();
    let behind = member(0, 7);
    db.run(&format!(
        "INSERT INTO ip_inventory (ip_address) SELECT '10.0.0.0'::inet + n FROM generate_series(1, 10050) n;
         INSERT INTO ip_inventory (ip_address) VALUES ('{behind}')"
    ));
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory WHERE NOT is_bogon"), 10_051);
    lab.reconfigure(&["worker_enabled = on"]);
    wait_until(
        "the address behind them has its network",
        || {
            (
                db.one(&format!("SELECT current_asn FROM ip_inventory WHERE ip_address = '{behind}'")),
                state(&mut db),
            )
        },
        |(asn, _)| asn == &synthetic_asn(behind).to_string(),
    );
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab), [behind]);
    // The worker sleeps for a hundred checks, and not only between two rounds.
    let mut asleep = 0;
    wait_until(
        "the worker sleeps",
        || {
            let now = db.one(
                "SELECT state FROM worker_status() WHERE role = 'worker' AND database = current_database()",
            );
            asleep = if now == "sleeping" { asleep + 1 } else { 0 };
            (now, asleep)
        },
        |(_, asleep)| *asleep >= 100,
    );
    // The next sweep is equally short.
    restart_worker(&mut db);
    queue(&mut db, &members(1..2));
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &[behind, member(1, 7)]);
    assert_eq!(asked(&lab), [behind, member(1, 7)]);
}

#[test]
fn jobs_that_came_without_requests_are_worked_off() {
    let lab = lab("queue-by-hand");
    let mut db = lab.database();
    queue(&mut db, &members(50..51));
    wait_for_the_queue(&mut db);
    // One job is leased for a day to a worker that never existed, one waits, and one is due.
    db.run(
        "INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at, due_at, leased_by)
         VALUES ('cymru', 'prefix', '60.0.0.0/24', 0, now(), now() + interval '1 day', 4711),
                ('cymru', 'prefix', '61.0.0.0/24', 1, now(), now() + interval '1 s', NULL),
                ('cymru', 'prefix', '62.0.0.0/24', 2, now() - interval '1 day', now() - interval '1 day', NULL);
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         VALUES ('cymru', '60.0.0.7', 'prefix', '60.0.0.0/24'), ('cymru', '61.0.0.7', 'prefix', '61.0.0.0/24'),
                ('cymru', '62.0.0.7', 'prefix', '62.0.0.0/24'), ('cymru', '62.0.0.8', 'prefix', '62.0.0.0/24')",
    );
    restart_worker(&mut db);
    wait_for_the_queue(&mut db);
    let mut all = members(0..3);
    all.extend([member(2, 8), member(50, 7)]);
    assert_placed(&mut db, &all);
    // The earlier worker may have sent a request for one of them before it ended.
    let asked = lab.whois.record().questions_total();
    assert!((4..=5).contains(&asked), "{asked} questions");
}

/// The worker of the new database starts with CREATE EXTENSION, before the rows are restored.
#[test]
fn a_restored_queue_is_worked_off() {
    let lab = asleep("queue-restored");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..30);
    let sessions = |range: std::ops::Range<usize>| {
        let texts: Vec<(String, String)> =
            range.map(|n| (format!("s{n}"), addresses[n].to_string())).collect();
        let rows: Vec<(&str, Option<&str>)> =
            texts.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
        SUMMARIES.insert(&rows)
    };
    db.run(&sessions(0..20));
    let mut hand = Hand::of(db.another(), 1);
    hand.takes_in();
    assert_eq!(hand.claims(5, 36_000.0).len(), 5);
    let dead = hand.claims(5, 36_000.0);
    hand.session.run("UPDATE enrich.enrichment_job SET attempts = 2 WHERE leased_by = 1");
    for job in &dead {
        let (lookup_key, address) = job.split_once('|').expect("two columns");
        assert_eq!(hand.fails(lookup_key, true, "NULL"), [format!("{address}|NULL|it broke")]);
    }
    db.run(&sessions(20..30));
    assert_eq!(status(&mut db), "10|15|10|5|0|15|5");

    let dump = db.dump("custom");
    drop(hand);
    lab.reconfigure(&["worker_enabled = on"]);
    wait_for_the_queue(&mut db);

    let mut restored = restored_from(&lab.cluster, &dump, "custom");
    restart_worker(&mut restored);
    for session in [&mut db, &mut restored] {
        wait_for_the_queue(session);
        assert_eq!(status(session), "0|0|0|0|0|0|5");
        let placed = "SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NOT NULL";
        assert_eq!(session.number(placed), 25);
        assert_eq!(session.number("SELECT retry_dead_letters('cymru')"), 5);
        wait_for_the_queue(session);
        assert_placed(session, &addresses);
        assert_eq!(session.number(placed), 30);
        assert_counts_are_exact(session, &[("session_summaries", "source_ip")]);
    }
    lab.assert_nothing_crashed();
}

/// In a dump, requests come before the inventory, with large tables in between. So the worker would have the time to
/// store rows that the restore is about to copy.
#[test]
fn a_restore_that_takes_its_time_is_not_disturbed_by_the_worker_that_it_woke() {
    let lab = asleep("queue-restoring");
    let mut db = lab.database();
    SUMMARIES.create_attached(&mut db);
    let addresses = members(0..20);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("s{n}"), Some(&address.to_string()))]));
    }
    db.run(
        "INSERT INTO ip_asn_history (ip_address, asn_number, verification_source)
         SELECT '10.0.0.0'::inet + n, 1, 'manual' FROM generate_series(1, 400000) n",
    );
    let dump = db.dump("custom");
    lab.reconfigure(&["worker_enabled = on"]);
    wait_for_the_queue(&mut db);
    let mut restored = restored_from(&lab.cluster, &dump, "custom");
    restart_worker(&mut restored);
    wait_for_the_queue(&mut restored);
    assert_placed(&mut restored, &addresses);
    assert_counts_are_exact(&mut restored, &[("session_summaries", "source_ip")]);
    lab.assert_nothing_crashed();
}
