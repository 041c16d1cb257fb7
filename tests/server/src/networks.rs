//! Lookups of networks at a simulated Team Cymru: a server that makes them, networks to look up, and their expected
//! values.

use std::collections::BTreeMap;

use cowrie_enrich_upstreams::{synthetic_country, synthetic_name};

use crate::cymru::{Lab, state, wait_for_the_queue, worker_pid, worker_pid_now};
use crate::{Options, Session, wait_until};

/// First AS number of the synthetic internet.
pub const FIRST: u64 = 1_000_000;

pub fn options(name: &str) -> Options {
    Options::named(name).with_worker().conf("cowrie_enrich.cymru_networks = on")
}

pub fn lab(name: &str) -> Lab {
    Lab::start(options(name))
}

/// Creates networks with a name and the country of an address, as if the networks came from an mmdb file.
pub fn create(session: &mut Session, from: u64, count: u64) {
    session.run(&format!(
        "INSERT INTO enrich.asn_inventory (asn_number, organization_name, organization_country, rir_registry, enrichment)
         SELECT n, 'File ' || n, 'FR', 'AFRINIC',
                '{{\"provenance\": {{\"organization_name\": \"maxmind\", \"organization_country\": \"maxmind\", \"rir_registry\": \"iana\"}}}}'
         FROM generate_series({from}, {from} + {count} - 1) n"
    ));
}

/// Creates networks without any value except their number.
pub fn create_bare(session: &mut Session, asns: &[u64]) {
    for asn in asns {
        session.run(&format!("INSERT INTO enrich.asn_inventory (asn_number) VALUES ({asn})"));
    }
}

/// Waits until each network has an answer, also a negative one.
#[track_caller]
pub fn wait_for_answers(session: &mut Session) {
    wait_until(
        "all networks have an answer",
        || {
            let open = session.number(
                "SELECT count(*) FROM enrich.asn_inventory
                 WHERE enrichment #>> '{_meta,cymru,state}' IS NULL AND NOT enrich.is_bogon_asn(asn_number)",
            );
            let jobs = session.number("SELECT count(*) FROM enrich.enrichment_job");
            if open + jobs == 0 { String::new() } else { format!("{open} open\n{}", state(session)) }
        },
        String::is_empty,
    );
}

pub fn registry(asn: u64) -> &'static str {
    match synthetic_country(asn) {
        "US" => "ARIN",
        "DE" | "NL" => "RIPE",
        "JP" | "KR" => "APNIC",
        "BR" => "LACNIC",
        _ => "AFRINIC",
    }
}

/// Returns the stored values of each network.
pub fn stored(session: &mut Session) -> BTreeMap<u64, String> {
    session
        .rows(
            "SELECT asn_number, organization_name || '/' || organization_country || '/' || rir_registry || '/'
                    || allocated_on || '/' || as_name
             FROM enrich.asn_inventory",
        )
        .iter()
        .map(|row| {
            let (asn, values) = row.split_once('|').expect("two columns");
            (asn.parse().expect("a number"), values.to_owned())
        })
        .collect()
}

/// Asserts that these networks, which [`create`] created, have the values of Team Cymru.
#[track_caller]
pub fn assert_filled(session: &mut Session, from: u64, count: u64) {
    let stored = stored(session);
    for asn in from..from + count {
        let name = synthetic_name(asn);
        let expected = format!("File {asn}/{}/{}/2020-02-20/{name}", synthetic_country(asn), registry(asn));
        assert_eq!(stored.get(&asn), Some(&expected), "{}", state(session));
    }
}

/// Makes the answers about networks older.
pub fn age(session: &mut Session, by: &str) {
    session.run(&format!(
        "UPDATE enrich.asn_inventory
         SET enrichment = jsonb_set(enrichment, '{{_meta,cymru,asked_at}}',
             to_jsonb(to_char(((enrichment #>> '{{_meta,cymru,asked_at}}')::timestamptz - interval '{by}') AT TIME ZONE 'UTC',
                              'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')))
         WHERE enrichment #>> '{{_meta,cymru,asked_at}}' IS NOT NULL"
    ));
}

/// Replaces the worker by another one, which begins with a sweep. Returns after the sweep.
pub fn sweep(session: &mut Session) {
    let pid = worker_pid(session);
    session.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until("another worker runs", || worker_pid_now(session), |now| now.is_some_and(|now| now != pid));
    // Each round of the worker sweeps before it folds. A sweep needs one round for the addresses and one for the
    // networks, and the first marker may come after the sweep of its round.
    for _ in 0..3 {
        session.run("INSERT INTO enrich.network_delta (asn_number, addresses, sessions) VALUES (1, 0, 0)");
        wait_until(
            "the worker has folded",
            || (session.number("SELECT count(*) FROM enrich.network_delta"), state(session)),
            |(left, _)| *left == 0,
        );
    }
    wait_for_the_queue(session);
}
