//! Lookups of networks at a Team Cymru that misbehaves, with a worker that is killed, and with rows that are locked.

use std::sync::Arc;
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, FOREIGN_ASN, FOREIGN_COUNTRY, FOREIGN_NAME, Fault, NetworkFault};
use server_tests::cymru::{Lab, provider, start_worker, state, wait_for_the_queue, worker_pid};
use server_tests::networks::{
    FIRST, assert_filled, create, create_bare, lab, options, sweep, wait_for_answers,
};
use server_tests::{Session, wait_until};

const WRONG: &str = "SELECT count(*) FROM enrich.asn_inventory a WHERE a::text ~ ";

/// Asserts that no value of a faulty row is stored.
#[track_caller]
fn assert_nothing_wrong(session: &mut Session, what: &str) {
    for wrong in [FOREIGN_NAME, "1992-12-01", "garbage"] {
        assert_eq!(session.number(&format!("{WRONG} '{wrong}'")), 0, "{what}: {wrong}");
    }
    let foreign = format!(
        "SELECT count(*) FROM enrich.asn_inventory
         WHERE organization_country = '{FOREIGN_COUNTRY}' OR asn_number BETWEEN {FOREIGN_ASN} AND {FOREIGN_ASN} + 9
            OR as_name IS NOT NULL AND as_name NOT LIKE 'SYNTH-%'"
    );
    assert_eq!(session.number(&foreign), 0, "{what}");
}

/// One worker for all faults. A fault either does no harm, or its networks have no answer while it lasts.
#[test]
fn no_fault_of_the_provider_writes_a_wrong_value() {
    let lab = Lab::start(
        options("networks-faults")
            .conf("cowrie_enrich.retry_base = 10ms")
            .conf("cowrie_enrich.cymru_timeout = 30s")
            .conf("cowrie_enrich.max_attempts = 3"),
    );
    let mut db = lab.database();
    start_worker(&mut db);
    let with_headings = |fault: NetworkFault| Behaviour::from(Fault::Networks(fault)).with_headings();
    let faults: Vec<(&str, Behaviour, &str)> = vec![
        // The name, the behaviour, and a count that moves; empty if the fault does no harm.
        ("mixed shapes", Fault::Networks(NetworkFault::MixedShapes).into(), "foreign_rows"),
        ("seven columns", Fault::Networks(NetworkFault::SevenColumns).into(), "foreign_rows"),
        ("swapped columns", Fault::Networks(NetworkFault::SwappedColumns).into(), "malformed_rows"),
        ("swapped columns and headings", with_headings(NetworkFault::SwappedColumns), "malformed_rows"),
        ("swapped names", Fault::Networks(NetworkFault::SwappedNames).into(), "malformed_rows"),
        ("bar in names", Fault::Networks(NetworkFault::BarInName).into(), "malformed_rows"),
        ("rows that end early", Fault::Networks(NetworkFault::CutRows).into(), "malformed_rows"),
        ("contradictions", Fault::Networks(NetworkFault::Contradicted).into(), "malformed_rows"),
        ("foreign rows only", Fault::Foreign { only: true }.into(), "foreign_rows"),
        ("cut in a row", Fault::CloseAfter { rows: 1, mid_row: true }.into(), "cut_off"),
        ("cut before the rows", Fault::CloseAfter { rows: 0, mid_row: false }.into(), "cut_off"),
        ("empty answer", Fault::Custom(Arc::new(|_| Vec::new())).into(), "cut_off"),
        ("garbage", Fault::Garbage(3_000).into(), "unanswered"),
        ("missing rows", Fault::Missing { every: 2 }.into(), "unanswered"),
        ("NUL bytes", Fault::NulBytes.into(), "malformed_rows"),
        ("duplicated rows", Fault::Networks(NetworkFault::Duplicated).into(), ""),
        ("foreign rows too", Fault::Foreign { only: false }.into(), ""),
        ("headings", Behaviour::normal().with_headings(), ""),
        ("other order", Fault::Reordered.into(), ""),
    ];
    for (nth, (what, behaviour, count)) in (0..).zip(faults) {
        eprintln!("{what}");
        let from = FIRST + nth * 10;
        let before = if count.is_empty() { 0 } else { provider(&mut db, count) };
        lab.whois.behave(behaviour);
        create(&mut db, from, 4);
        if !count.is_empty() {
            wait_until(
                &format!("{count} moves: {what}"),
                || (provider(&mut db, count), state(&mut db)),
                |(now, _)| *now > before,
            );
            assert_nothing_wrong(&mut db, what);
            lab.whois.behave(Behaviour::normal());
            wait_until(
                "all lookups have ended",
                || {
                    // Lookups that the provider refused too often are queued again.
                    db.run("SELECT enrich.retry_dead_letters('cymru')");
                    db.run("SELECT enrich.resume_provider('cymru')");
                    let left = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NULL";
                    (db.number(left), state(&mut db))
                },
                |(left, _)| *left == 0,
            );
        }
        wait_for_answers(&mut db);
        assert_nothing_wrong(&mut db, what);
        assert_filled(&mut db, from, 4);
    }
    // A registry that does not exist is null, and the rest of the row is stored.
    lab.whois.behave(Fault::Networks(NetworkFault::UnknownRegistry));
    create_bare(&mut db, &[FIRST + 900]);
    wait_for_answers(&mut db);
    assert_eq!(
        db.one("SELECT rir_registry, organization_country IS NOT NULL FROM enrich.asn_inventory WHERE asn_number = 1000900"),
        "NULL|t"
    );
    lab.assert_nothing_crashed();
}

#[test]
fn locked_network_gets_its_answer_later_and_the_others_at_once() {
    let lab = lab("networks-locked");
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Held);
    create(&mut db, FIRST, 4);
    wait_until("the request has begun", || lab.whois.record().networks().count(), |asked| *asked == 4);
    let mut other = db.another();
    other.run("BEGIN; UPDATE enrich.asn_inventory SET first_seen = now() WHERE asn_number = 1000002");
    lab.whois.behave(Behaviour::normal());
    let filled = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NOT NULL";
    wait_until("the others are filled", || (db.number(filled), state(&mut db)), |(count, _)| *count == 3);
    assert_eq!(db.rows("SELECT lookup_key FROM enrich.enrichment_job"), ["1000002"]);
    other.run("COMMIT");
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 4);
    assert_eq!(lab.whois.record().networks().count(), 4, "the answer was kept");
}

#[test]
fn worker_that_is_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing() {
    let lab = Lab::start(
        options("networks-kills")
            .conf("cowrie_enrich.cymru_batch_size = 50")
            .conf("cowrie_enrich.cymru_max_connections = 2")
            .conf("restart_after_crash = on"),
    );
    let mut db = lab.database();
    let name = db.name.clone();
    start_worker(&mut db);
    // Four requests are answered, all others are held until the worker has been killed.
    let normal = || Behaviour::normal().delayed(Duration::from_millis(20));
    lab.whois.behave_in_turn(vec![normal(), normal(), normal(), normal(), Fault::Held.into()]);
    create(&mut db, FIRST, 1_000);
    let filled = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NOT NULL";
    wait_until(
        "some requests are answered, and the next ones have begun",
        || {
            (
                db.number(filled),
                lab.whois.record().connections.iter().filter(|c| c.end).count(),
                state(&mut db),
            )
        },
        |(count, begun, _)| *count == 200 && *begun == 6,
    );
    let pid = worker_pid(&mut db);
    let before =
        db.rows("SELECT asn_number, xmin FROM enrich.asn_inventory WHERE as_name IS NOT NULL ORDER BY 1");
    drop(db);
    lab.cluster.kill_backend(pid);
    lab.whois.behave(Behaviour::normal());
    let mut db = lab.cluster.session(&name);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 1_000);
    let record = lab.whois.record();
    assert_eq!(record.networks_answered_twice(), [] as [u64; 0]);
    assert_eq!(record.networks().count(), 1_000 + 100, "only the two held requests were repeated");
    let asns: Vec<&str> = before.iter().filter_map(|row| row.split('|').next()).collect();
    assert_eq!(
        db.rows(&format!(
            "SELECT asn_number, xmin FROM enrich.asn_inventory WHERE asn_number IN ({}) ORDER BY 1",
            asns.join(",")
        )),
        before,
        "stored answers were not written again"
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
}

#[test]
fn failed_lookup_of_a_network_is_a_dead_letter_until_it_is_retried() {
    let lab = Lab::start(options("networks-dead").conf("cowrie_enrich.max_attempts = 2"));
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Missing { every: 1 });
    create(&mut db, FIRST + 1, 1);
    wait_until(
        "the lookup is a dead letter",
        || (db.number("SELECT count(*) FROM enrich.dead_letter"), state(&mut db)),
        |(dead, _)| *dead == 1,
    );
    assert_eq!(
        db.one("SELECT ip_address, asn_number, lookup_kind, lookup_key, attempts, last_error <> '' FROM enrich.dead_letter"),
        "NULL|1000001|asn|1000001|2|t"
    );
    assert_eq!(db.number("SELECT dead FROM enrich.queue_status WHERE provider = 'cymru'"), 1);
    assert_eq!(provider(&mut db, "dead_letters"), 1);
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{_meta,cymru,state}' FROM enrich.asn_inventory WHERE asn_number = 1000001"
        ),
        "failed"
    );
    lab.whois.behave(Behaviour::normal());
    let asked = lab.whois.record().networks().count();
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().count(), asked, "a dead letter is not retried by itself");
    assert_eq!(db.number("SELECT enrich.retry_dead_letters('cymru')"), 1);
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST + 1, 1);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
}

#[test]
fn lost_job_of_a_network_is_created_again_by_a_sweep() {
    let lab = lab("networks-lost");
    let mut db = lab.database();
    start_worker(&mut db);
    db.run(
        "INSERT INTO enrich.asn_inventory (asn_number, lookup_queued_at) VALUES (1000001, now());
         INSERT INTO enrich.asn_inventory (asn_number, lookup_queued_at) VALUES (64512, now())",
    );
    sweep(&mut db);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [1_000_001]);
}
