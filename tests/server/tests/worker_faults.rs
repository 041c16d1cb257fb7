//! For anything that Team Cymru sends: nothing wrong is stored, and the right counter increases. When Team Cymru works
//! again, the same worker process resolves every address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, Fault, synthetic_asn};
use server_tests::cymru::{
    Lab, array, assert_nothing_wrong, assert_placed, member, member6, members, peak_memory, provider, queue,
    state, stored, wait_for_the_queue, worker_pid,
};
use server_tests::{Database, Options, wait_until};

/// Timeouts are too long for any answer to be late, even on a busy machine.
fn lab(name: &str) -> Lab {
    lab_with(name, "30s")
}

/// Timeouts are short, for tests of answers that never come.
fn impatient_lab(name: &str) -> Lab {
    lab_with(name, "1s")
}

fn lab_with(name: &str, timeout: &str) -> Lab {
    Lab::start(
        Options::named(name)
            .with_worker()
            .conf(&format!("cowrie_enrich.cymru_timeout = {timeout}"))
            .conf("cowrie_enrich.retry_base = 10ms")
            .conf("cowrie_enrich.cymru_absent_ttl = 1s"),
    )
}

/// One database and one worker process for several faults.
struct Patient<'a> {
    lab: &'a Lab,
    db: Database<'a>,
    pid: i64,
    /// Number of prefixes used so far.
    blocks: usize,
    asked: Vec<IpAddr>,
}

/// The effect of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The valid rows resolve every address.
    NoHarm,
    /// Every address is resolved in the end, although the fault lasts.
    Gradually,
    /// Some addresses are resolved, the others end as dead letters.
    Partly,
    /// Every address ends as a dead letter.
    Dies,
    /// No address is resolved, and none becomes a dead letter, because the provider is down for every lookup.
    Waits,
}

impl<'a> Patient<'a> {
    fn of(lab: &'a Lab) -> Self {
        let mut db = lab.database();
        let first = members(90_000..90_001);
        queue(&mut db, &first);
        wait_for_the_queue(&mut db);
        let pid = worker_pid(&mut db);
        Self { lab, db, pid, blocks: 0, asked: first }
    }

    fn ten_addresses(&mut self) -> Vec<IpAddr> {
        let addresses: Vec<IpAddr> = (self.blocks..self.blocks + 10)
            .map(|n| if n % 5 == 4 { member6(n, 3) } else { member(n, 9) })
            .collect();
        self.blocks += 10;
        self.asked.extend(&addresses);
        addresses
    }

    fn counts(&mut self, columns: &[&'static str]) -> BTreeMap<&'static str, i64> {
        columns.iter().map(|column| (*column, provider(&mut self.db, column))).collect()
    }

    #[track_caller]
    fn suffers(&mut self, what: &str, fault: impl Into<Behaviour>, moves: &[&'static str], course: Course) {
        eprintln!("{what}");
        self.lab.whois.behave(fault);
        self.goes_through(what, moves, course);
    }

    #[track_caller]
    fn goes_through(&mut self, what: &str, moves: &[&'static str], course: Course) {
        let addresses = self.ten_addresses();
        let before = self.counts(moves);
        queue(&mut self.db, &addresses);
        let unmoved = wait_until(
            &format!("the counts {moves:?} move: {what}"),
            || {
                let now = self.counts(moves);
                let unmoved: Vec<_> = moves.iter().filter(|c| now[*c] <= before[*c]).copied().collect();
                if unmoved.is_empty() {
                    String::new()
                } else {
                    format!("{unmoved:?} {}", state(&mut self.db))
                }
            },
            String::is_empty,
        );
        assert_eq!(unmoved, "");
        assert_nothing_wrong(&mut self.db, &self.asked);
        match course {
            Course::NoHarm | Course::Gradually => {
                wait_for_the_queue(&mut self.db);
                assert_eq!(self.db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "{what}");
                assert_placed(&mut self.db, &addresses);
            }
            Course::Partly => {
                wait_for_the_queue(&mut self.db);
                assert_nothing_wrong(&mut self.db, &self.asked);
                let dead = self.db.number("SELECT count(*) FROM enrich.dead_letter");
                let placed = stored(&mut self.db)
                    .iter()
                    .filter(|(address, asn)| addresses.contains(address) && asn.is_some())
                    .count() as i64;
                assert!(placed >= 5 && placed + dead == 10, "{what}: {placed} resolved, {dead} dead");
            }
            Course::Dies => {
                wait_for_the_queue(&mut self.db);
                assert_nothing_wrong(&mut self.db, &self.asked);
                let dead = self.db.rows(
                    "SELECT host(ip_address), attempts, last_error <> '' FROM enrich.dead_letter ORDER BY ip_address",
                );
                let mut expected: Vec<String> = addresses.iter().map(|a| format!("{a}|3|t")).collect();
                expected.sort();
                let mut sorted = dead.clone();
                sorted.sort();
                assert_eq!(sorted, expected, "{what}");
                assert!(stored(&mut self.db).iter().all(|(a, asn)| !addresses.contains(a) || asn.is_none()));
            }
            Course::Waits => {
                assert_eq!(self.db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "{what}");
                assert_eq!(self.db.number("SELECT count(*) FROM enrich.enrichment_job"), 10, "{what}");
            }
        }
        self.recovers(what, &addresses);
    }

    /// Team Cymru works again. Asserts that the queue drains; only dead letters need a call.
    #[track_caller]
    fn recovers(&mut self, what: &str, addresses: &[IpAddr]) {
        self.lab.whois.listen_again();
        self.lab.whois.behave(Behaviour::normal());
        self.db.run("SELECT enrich.retry_dead_letters()");
        wait_for_the_queue(&mut self.db);
        assert_placed(&mut self.db, addresses);
        assert_eq!(self.db.number("SELECT count(*) FROM enrich.dead_letter"), 0, "{what}");
        assert_nothing_wrong(&mut self.db, &self.asked);
        assert_eq!(worker_pid(&mut self.db), self.pid, "the same process: {what}");
        // Answers are stored before the request ends.
        wait_until("no exchange is under way", || provider(&mut self.db, "in_flight"), |n| *n == 0);
        self.lab.assert_nothing_crashed();
    }
}

#[test]
fn a_provider_that_is_down_for_everybody_kills_no_lookup() {
    let lab = impatient_lab("faults-down");
    let mut patient = Patient::of(&lab);
    lab.whois.refuse();
    patient.goes_through("refused", &["unreachable"], Course::Waits);
    patient.suffers("silent", Fault::Silent, &["silent", "unanswered"], Course::Waits);
    // A connection that ends without an answer.
    patient.suffers("dropped", Fault::DropAfter { questions: 2 }, &["unanswered"], Course::Waits);
}

/// However long an outage is, it uses up no attempt of a lookup. Only a response without the answer to the lookup
/// uses up an attempt.
#[test]
fn an_outage_that_lasts_longer_than_all_attempts_kills_no_lookup() {
    let lab = lab("faults-outage");
    let mut patient = Patient::of(&lab);
    lab.whois.refuse();
    let addresses = patient.ten_addresses();
    queue(&mut patient.db, &addresses);
    wait_until("six exchanges have failed", || provider(&mut patient.db, "unreachable"), |n| *n >= 6);
    assert_eq!(
        patient.db.one("SELECT state IN ('open', 'half-open'), failures >= 5, last_error IS NOT NULL, last_failure > last_success
             FROM enrich.provider_status() WHERE provider = 'cymru'"),
        "t|t|t|t"
    );
    assert_eq!(patient.db.one("SELECT jobs, dead FROM enrich.queue_status WHERE provider = 'cymru'"), "10|0");
    assert_eq!(patient.db.one("SELECT max(attempts) FROM enrich.enrichment_job"), "0");
    patient.recovers("outage", &addresses);
    assert_eq!(
        patient.db.one(
            "SELECT state, failures, backoff_until FROM enrich.provider_status() WHERE provider = 'cymru'"
        ),
        "closed|0|NULL"
    );
}

#[test]
fn answers_that_are_too_slow_or_cut_are_asked_for_again() {
    let lab = impatient_lab("faults-slow");
    let mut patient = Patient::of(&lab);
    patient.suffers(
        "one byte at a time",
        Fault::Drip { every: Duration::from_millis(100) },
        &["timed_out", "unanswered"],
        Course::Waits,
    );
    patient.suffers(
        "a stop after some bytes",
        Fault::Drip { every: Duration::from_millis(1_100) },
        &["timed_out"],
        Course::Waits,
    );
    patient.suffers(
        "an end in the middle of a row",
        Fault::CloseAfter { rows: 4, mid_row: true },
        &["cut_off", "unanswered"],
        Course::Gradually,
    );
    patient.suffers(
        "an end after some rows",
        Fault::CloseAfter { rows: 4, mid_row: false },
        &["unanswered"],
        Course::Gradually,
    );
    patient.suffers(
        "an end in the middle of the first row",
        Fault::CloseAfter { rows: 0, mid_row: true },
        &["cut_off"],
        Course::Dies,
    );
}

#[test]
fn complete_rows_of_a_broken_answer_are_kept() {
    let lab = lab("faults-kept");
    let mut patient = Patient::of(&lab);
    lab.whois.forget();
    lab.whois.behave_in_turn(vec![Fault::CloseAfter { rows: 4, mid_row: true }.into(), Behaviour::normal()]);
    let addresses = patient.ten_addresses();
    queue(&mut patient.db, &addresses);
    wait_for_the_queue(&mut patient.db);
    assert_placed(&mut patient.db, &addresses);
    let sizes: Vec<usize> = lab.whois.record().connections.iter().map(|c| c.questions.len()).collect();
    assert_eq!(sizes, [10, 6]);
}

#[test]
fn endless_answers_end_and_take_no_memory() {
    let lab = lab("faults-endless");
    let mut patient = Patient::of(&lab);
    let before = peak_memory(patient.pid);
    patient.suffers("endless rows", Fault::EndlessRows, &["foreign_rows"], Course::NoHarm);
    patient.suffers("an endless line", Fault::EndlessLine, &["oversized_rows"], Course::NoHarm);
    patient.suffers(
        "a line of 10 MB",
        Fault::LongLine(10_000_000),
        &["oversized_rows", "too_large", "unanswered"],
        Course::Dies,
    );
    let rows =
        b"64500   | 4.4.4.4          | 4.0.0.0/9           | US | arin     | 1992-12-01 | FOREIGN, US\n";
    let many: Vec<u8> = rows.iter().copied().cycle().take(rows.len() * 100_000).collect();
    patient.suffers(
        "many rows of others",
        Fault::Custom(Arc::new(move |_| many.clone())),
        &["foreign_rows", "too_large", "unanswered"],
        Course::Dies,
    );
    let grown = peak_memory(patient.pid) - before;
    assert!(grown < 50_000, "the worker grew by {grown} kB");
}

#[test]
fn bytes_without_sense_store_nothing() {
    let lab = lab("faults-bytes");
    let mut patient = Patient::of(&lab);
    patient.suffers("garbage", Fault::Garbage(60_000), &["malformed_rows", "unanswered"], Course::Dies);
    patient.suffers("much garbage", Fault::Garbage(2_000_000), &["too_large"], Course::Dies);
    patient.suffers("NUL bytes", Fault::NulBytes, &["malformed_rows", "unanswered"], Course::Partly);
    patient.suffers("names that are not UTF-8", Fault::NotUtf8, &["answers"], Course::NoHarm);
    assert_eq!(
        patient
            .db
            .number("SELECT count(*) FROM enrich.asn_inventory WHERE organization_name LIKE '%Tel%com%'"),
        10
    );
    patient.suffers(
        "numbers beyond 32 bits",
        Fault::AsnTooLarge,
        &["malformed_rows", "unanswered"],
        Course::Dies,
    );
}

#[test]
fn rows_that_are_others_missing_or_in_another_order_do_no_harm() {
    let lab = lab("faults-rows");
    let mut patient = Patient::of(&lab);
    patient.suffers("rows of others too", Fault::Foreign { only: false }, &["foreign_rows"], Course::NoHarm);
    patient.suffers(
        "rows of others only",
        Fault::Foreign { only: true },
        &["foreign_rows", "unanswered"],
        Course::Dies,
    );
    patient.suffers("missing rows", Fault::Missing { every: 3 }, &["unanswered"], Course::Gradually);
    patient.suffers("no rows at all", Fault::Missing { every: 1 }, &["unanswered"], Course::Dies);
    patient.suffers("another order", Fault::Reordered, &["answers"], Course::NoHarm);
    patient.suffers("another spelling", Fault::OtherSpelling, &["answers"], Course::NoHarm);
    patient.suffers("headings", Behaviour::normal().with_headings(), &["answers"], Course::NoHarm);
    patient.suffers("CRLF", Behaviour::normal().with_crlf(), &["answers"], Course::NoHarm);
    patient.suffers("no first line", Behaviour::normal().without_bulk_line(), &["answers"], Course::NoHarm);
}

#[test]
fn error_lines_are_refusals_of_single_lookups() {
    let lab = lab("faults-errors");
    let mut patient = Patient::of(&lab);
    patient.suffers("every lookup refused", Fault::ErrorLines { every: 1 }, &["refused"], Course::Dies);
    lab.whois.behave(Fault::ErrorLines { every: 5 });
    patient.goes_through("some lookups refused", &["refused"], Course::Gradually);
    lab.whois.behave(Fault::ErrorLines { every: 1 });
    let addresses = patient.ten_addresses();
    queue(&mut patient.db, &addresses);
    wait_for_the_queue(&mut patient.db);
    let errors = patient.db.rows("SELECT DISTINCT last_error FROM enrich.dead_letter");
    assert!(errors.iter().all(|e| e.starts_with("refused: ")) && !errors.is_empty(), "{errors:?}");
    patient.recovers("refusals", &addresses);
}

#[test]
fn nobody_announces_it_is_an_answer_with_a_lifetime_of_its_own() {
    let lab = lab("faults-na");
    let mut patient = Patient::of(&lab);
    lab.whois.behave(Fault::AllNa);
    let before = provider(&mut patient.db, "absent");
    let addresses = patient.ten_addresses();
    queue(&mut patient.db, &addresses);
    wait_for_the_queue(&mut patient.db);
    assert_eq!(provider(&mut patient.db, "absent") - before, 10);
    let stored = stored(&mut patient.db);
    assert!(addresses.iter().all(|address| stored[address].is_none()));
    assert_eq!(patient.db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    assert_eq!(
        patient.db.rows(&format!(
            "SELECT DISTINCT enrichment #>> '{{_meta,cymru,state}}', (enrichment #>> '{{_meta,cymru,retry_after}}') IS NOT NULL
             FROM enrich.ip_inventory WHERE ip_address = ANY ({})",
            array(&addresses)
        )),
        ["absent|t"]
    );
    // A fresh negative answer serves the prefix. After its lifetime the prefix is requested again.
    lab.reconfigure(&["cymru_absent_ttl = 1h"]);
    lab.whois.behave(Behaviour::normal());
    lab.whois.forget();
    queue(&mut patient.db, &addresses);
    wait_for_the_queue(&mut patient.db);
    assert_eq!(lab.whois.record().questions_total(), 0);
    patient.db.run("UPDATE enrich.block_answer SET asked_at = asked_at - interval '2 hours'");
    queue(&mut patient.db, &addresses);
    patient.recovers("NA", &addresses);
    assert_eq!(lab.whois.record().questions_total(), 10);
}

#[test]
fn of_several_origins_the_most_specific_and_lowest_is_taken_and_the_rest_kept() {
    let lab = lab("faults-origins");
    let mut patient = Patient::of(&lab);
    patient.suffers("several origins", Fault::MultiOrigin, &["answers"], Course::NoHarm);
    let addresses = patient.asked[1..].to_vec();
    for address in addresses {
        let asn = synthetic_asn(address);
        let length = if address.is_ipv4() { 24 } else { 48 };
        assert_eq!(
            patient.db.one(&format!(
                "SELECT enrichment #>> '{{cymru,asn}}', enrichment #>> '{{cymru,prefix}}',
                        (SELECT array_agg(o ORDER BY o) FROM jsonb_array_elements_text(enrichment #> '{{cymru,origins}}') o)
                 FROM enrich.ip_inventory WHERE ip_address = '{address}'"
            )),
            format!(
                "{asn}|{}|{{{}}}",
                patient.db.one(&format!("SELECT network(set_masklen('{address}'::inet, {length}))")),
                [asn - 1, asn + 1, asn + 2].map(|n| n.to_string()).join(",")
            ),
        );
    }
}
