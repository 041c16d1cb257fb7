//! The number of attempts of a lookup, and the pauses between them: random histories of failures, compared with a
//! model.
//!
//! COWRIE_ENRICH_SEED= sets other random numbers. The seed is printed.

use std::collections::BTreeMap;

use server_tests::database;
use server_tests::installation::workspace;
use server_tests::random::Random;

const MOST_ATTEMPTS: u64 = 4;
const BASE: f64 = 90.0;
const LONGEST: f64 = 3600.0;

/// The model of a lookup: the number of failures that counted, and whether the provider has answered another
/// lookup since the last failure of any kind.
#[derive(Clone, Copy, Default, Debug)]
struct Lookup {
    attempts: u64,
    has_failed: bool,
}

#[test]
fn any_history_of_failures_ends_as_the_model_has_it() {
    let seed = std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let mut random = Random::seeded(seed);
    let mut db = database();
    // Each lookup has two addresses that wait for it.
    db.run(
        "INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at)
             SELECT 'cymru', 'prefix', format('60.0.%s.0/24', n), 0, now() FROM generate_series(0, 39) n;
         INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
             SELECT 'cymru', format('60.0.%s.%s', n, host)::inet, 'prefix', format('60.0.%s.0/24', n)
             FROM generate_series(0, 39) n, generate_series(1, 2) host;",
    );
    let text =
        std::fs::read_to_string(workspace().join("sql/queries/queue/jobs_fail.sql")).expect("it is there");
    db.run(&format!(
        "PREPARE fail(text, text[], text[], boolean[], float8, integer, timestamptz, float8) AS {}",
        text.replace("@extschema@", "enrich")
    ));

    let mut alive: BTreeMap<u64, Lookup> = (0..40).map(|n| (n, Lookup::default())).collect();
    let mut dead: BTreeMap<u64, u64> = BTreeMap::new();
    for step in 0..60 {
        let mut failed: Vec<(u64, Option<bool>)> = Vec::new();
        for lookup in alive.keys() {
            if random.one_in(3) {
                failed.push((*lookup, *random.pick(&[Some(true), Some(false), None])));
            }
        }
        // True if the provider answered another lookup in between.
        let heard = random.one_in(2);
        let jitter = random.below(1001) as f64 / 1000.0;
        let list = |texts: Vec<String>| texts.join(",");
        let lookup_keys = list(failed.iter().map(|(n, _)| format!("60.0.{n}.0/24")).collect());
        let errors = list(failed.iter().map(|(n, _)| format!("error {n} at {step}")).collect());
        let counts = list(
            failed
                .iter()
                .map(|(_, counts)| counts.map_or("NULL".to_owned(), |counts| counts.to_string()))
                .collect(),
        );
        let heard_at = if heard { "'infinity'" } else { "'-infinity'" };
        db.run("BEGIN");
        let buried = db.rows(&format!(
            "EXECUTE fail('cymru', '{{{lookup_keys}}}', '{{{errors}}}', '{{{counts}}}', {BASE}, {MOST_ATTEMPTS}, {heard_at}, {jitter})"
        ));
        let pauses: BTreeMap<u64, f64> = db
            .rows("SELECT split_part(lookup_key, '.', 3), extract(epoch FROM due_at - now()) FROM enrichment_job")
            .iter()
            .map(|row| row.split_once('|').expect("two columns"))
            .map(|(n, pause)| (n.parse().expect("a number"), pause.parse().expect("a number")))
            .collect();
        db.run("COMMIT");

        let mut expected = Vec::new();
        for (n, counts) in failed {
            let lookup = alive.get_mut(&n).expect("it failed, so it was there");
            let counted = match counts {
                Some(true) => true,
                Some(false) => heard && lookup.has_failed,
                None => false,
            };
            lookup.attempts += u64::from(counted);
            lookup.has_failed |= counts.is_some();
            if counted && lookup.attempts >= MOST_ATTEMPTS {
                expected.extend((1..=2).map(|host| format!("60.0.{n}.{host}|NULL|error {n} at {step}")));
                dead.insert(n, lookup.attempts);
                alive.remove(&n);
                continue;
            }
            let plain = (BASE * 2_f64.powi(lookup.attempts.max(1) as i32 - 1)).min(LONGEST);
            let pause = pauses[&n];
            assert!(
                (pause - plain * (0.75 + 0.5 * jitter)).abs() < 0.01,
                "step {step}, {n}: {pause} s, {lookup:?}"
            );
        }
        expected
            .sort_by_key(|row| row.split('|').next().and_then(|ip| ip.parse::<std::net::Ipv4Addr>().ok()));
        assert_eq!(buried, expected, "step {step}");
        let jobs = db.rows(
            "SELECT split_part(lookup_key, '.', 3)::int, attempts, failed_at IS NOT NULL FROM enrichment_job ORDER BY 1",
        );
        let model: Vec<String> = alive
            .iter()
            .map(|(n, q)| format!("{n}|{}|{}", q.attempts, if q.has_failed { "t" } else { "f" }))
            .collect();
        assert_eq!(jobs, model, "step {step}");
        // A lookup either waits or is a dead letter.
        assert_eq!(
            db.one(
                "SELECT (SELECT count(*) FROM job_address), (SELECT count(*) FROM dead_letter),
                        (SELECT count(*) FROM job_address JOIN dead_letter USING (provider, ip_address))"
            ),
            format!("{}|{}|0", 2 * alive.len(), 2 * dead.len()),
            "step {step}"
        );
    }
    assert!(dead.len() > 10 && !dead.values().any(|attempts| *attempts != MOST_ATTEMPTS), "{dead:?}");
}
