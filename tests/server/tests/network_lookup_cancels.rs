//! Lookups of networks that are cancelled.

use std::collections::BTreeSet;

use cowrie_enrich_upstreams::{Behaviour, Fault};
use server_tests::cymru::{members, queue, start_worker, state, wait_for_the_queue};
use server_tests::networks::{FIRST, age, assert_filled, create, lab, sweep, wait_for_answers};
use server_tests::{Session, wait_until};

/// Waits until this number of lookups have jobs.
fn wait_for_jobs(db: &mut Session, number: i64) {
    wait_until(
        "the lookups have jobs",
        || (db.number("SELECT count(*) FROM enrich.enrichment_job"), state(db)),
        |(jobs, _)| *jobs == number,
    );
}

#[test]
fn cancelled_lookup_of_a_network_is_not_queued_again_by_itself() {
    let lab = lab("networks-cancelled");
    lab.reconfigure(&["cymru_networks = off"]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 2);
    db.run(&format!("SELECT enrich.request_enrichment({FIRST})"));
    wait_for_jobs(&mut db, 1);
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 1);
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 0);
    lab.reconfigure(&["cymru_networks = on"]);
    wait_for_answers(&mut db);
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [FIRST + 1]);
    db.run(&format!("SELECT enrich.request_enrichment({FIRST})"));
    wait_until("it is asked after all", || lab.whois.record().networks().count(), |asked| *asked == 2);
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST, 2);
}

#[test]
fn cancelled_lookup_of_a_network_comes_back_with_its_next_session() {
    let lab = lab("networks-cancelled-session");
    lab.reconfigure(&["cymru_networks = off"]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 2);
    db.run(&format!(
        "SELECT enrich.request_enrichment({FIRST}); SELECT enrich.request_enrichment({FIRST} + 1)"
    ));
    wait_for_jobs(&mut db, 2);
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 2);
    db.run(&format!(
        "UPDATE enrich.asn_inventory SET total_session_count = total_session_count + 1 WHERE asn_number = {FIRST}"
    ));
    lab.reconfigure(&["cymru_networks = on"]);
    sweep(&mut db);
    wait_until("it is asked", || lab.whois.record().networks().count(), |asked| *asked > 0);
    wait_for_the_queue(&mut db);
    // sweep() ends the worker, so the lookup can be repeated.
    let asked: BTreeSet<_> = lab.whois.record().networks().collect();
    assert_eq!(asked, BTreeSet::from([FIRST]));
    assert_filled(&mut db, FIRST, 1);
}

const STATES: &str = "SELECT asn_number, enrichment #>> '{_meta,cymru,state}',
                             (enrichment #>> '{_meta,cymru,skipped_at}')::timestamptz > now() - interval '1 hour'
                      FROM enrich.asn_inventory ORDER BY 1";

#[test]
fn requested_due_and_delayed_lookups_are_cancelled_and_one_in_flight_ends() {
    let lab = lab("networks-cancel-states");
    let mut db = lab.database();
    start_worker(&mut db);
    wait_for_the_queue(&mut db);
    // The first network is in flight: the worker has leased its job, and the provider does not answer.
    lab.reconfigure(&["cymru_max_connections = 1"]);
    lab.whois.behave(Fault::Held);
    create(&mut db, FIRST, 1);
    wait_until("the lookup is in flight", || lab.whois.record().networks().count(), |asked| *asked == 1);
    // The next two have a job that is due, and one has a request that no worker has read. One has a job that has
    // failed before.
    create(&mut db, FIRST + 1, 2);
    wait_for_jobs(&mut db, 3);
    queue(&mut db, &members(0..1));
    let mut other = db.another();
    other.run("BEGIN; LOCK TABLE enrich.enrichment_job IN SHARE ROW EXCLUSIVE MODE");
    create(&mut other, FIRST + 3, 2);
    other.run(&format!(
        "UPDATE enrich.asn_inventory SET lookup_queued_at = now() WHERE asn_number >= {FIRST} + 3;
         INSERT INTO enrich.enrichment_job (provider, lookup_kind, lookup_key, priority, requested_at, due_at, attempts, last_error)
             VALUES ('cymru', 'asn', {FIRST} + 3, -1, now(), now() + interval '1 hour', 1, 'no answer');
         SELECT enrich.request_enrichment({FIRST} + 4)"
    ));
    let cancelled = other.number("SELECT enrich.cancel_requests('cymru')");
    other.run("COMMIT");
    // Four networks and one address. The lookup in flight stays.
    assert_eq!(cancelled, 5);
    assert_eq!(
        db.rows(STATES),
        [
            format!("{FIRST}|NULL|NULL"),
            format!("{}|skipped|t", FIRST + 1),
            format!("{}|skipped|t", FIRST + 2),
            format!("{}|skipped|t", FIRST + 3),
            format!("{}|skipped|t", FIRST + 4),
        ]
    );
    assert_eq!(db.rows("SELECT lookup_key FROM enrich.enrichment_job"), [FIRST.to_string()]);
    assert_eq!(other.number("SELECT enrich.cancel_requests('cymru')"), 0, "it does not wait for the worker");
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST, 1);
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [FIRST], "the others were not asked");
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    // A request brings a lookup back.
    db.run(&format!("SELECT enrich.request_enrichment(n) FROM generate_series({FIRST} + 1, {FIRST} + 4) n"));
    wait_until("all are asked", || lab.whois.record().networks().count(), |asked| *asked == 5);
    wait_for_the_queue(&mut db);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 5);
    assert_eq!(
        db.rows("SELECT DISTINCT enrichment #>> '{_meta,cymru,state}' FROM enrich.asn_inventory"),
        ["value"]
    );
    lab.assert_nothing_crashed();
}

#[test]
fn lookup_in_flight_that_fails_after_a_cancel_is_repeated_and_can_be_cancelled_then() {
    let lab = lab("networks-cancel-flight");
    lab.reconfigure(&["max_attempts = 5", "retry_base = 1h"]);
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Held);
    create(&mut db, FIRST, 2);
    wait_until("the lookups are in flight", || lab.whois.record().networks().count(), |asked| *asked == 2);
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 0);
    // The answer lacks both networks, so the lookups fail and wait for their next attempt.
    lab.whois.behave(Fault::Missing { every: 1 });
    wait_until(
        "the lookups have failed",
        || {
            (
                db.number(
                    "SELECT count(*) FROM enrich.enrichment_job WHERE attempts = 1 AND leased_by IS NULL",
                ),
                state(&mut db),
            )
        },
        |(failed, _)| *failed == 2,
    );
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 2);
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 0);
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().count(), 2);
}

#[test]
fn cancel_keeps_an_earlier_answer_and_an_address_does_not_cancel_its_network() {
    let lab = lab("networks-cancel-answered");
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 2);
    wait_for_answers(&mut db);
    lab.reconfigure(&["cymru_networks = off"]);
    age(&mut db, "100 days");
    db.run(&format!("SELECT enrich.request_enrichment({FIRST})"));
    wait_for_jobs(&mut db, 1);
    let address = members(0..1)[0];
    assert_eq!(db.number(&format!("SELECT enrich.cancel_requests('cymru', '{address}')")), 0);
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 1);
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 1);
    assert_filled(&mut db, FIRST, 2);
    assert_eq!(
        db.rows("SELECT asn_number, enrichment #>> '{_meta,cymru,state}', enrichment #>> '{_meta,cymru,asked_at}' IS NOT NULL
                 FROM enrich.asn_inventory ORDER BY 1"),
        [format!("{FIRST}|skipped|t"), format!("{}|value|t", FIRST + 1)]
    );
    // Only the other network is asked again.
    lab.reconfigure(&["cymru_networks = on"]);
    sweep(&mut db);
    wait_until("the other is asked again", || lab.whois.record().networks().count(), |asked| *asked == 3);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().networks().last(), Some(FIRST + 1));
}
