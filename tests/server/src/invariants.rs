//! The invariants: they hold at any time, after any kill, and during any work. They are checked in one snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::hosts::{COWRIE, Host, SUMMARIES};
use crate::recount::sessions_per_address;
use crate::session::Session;
use crate::wait::wait_until;

const HOSTS: [&Host; 2] = [&COWRIE, &SUMMARIES];

/// The snapshot columns of the sessions that were read so far. A value that is set must not change.
#[derive(Default)]
pub struct Snapshots(BTreeMap<String, [String; 5]>);

/// Asserts all invariants for a database that has both hosts' tables. Works on a standby, too.
#[track_caller]
pub fn assert_invariants(session: &mut Session, seen: &mut Snapshots) {
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    counts_are_exact(session);
    references_hold(session);
    history_is_sound(session);
    no_lookup_is_lost(session);
    session.run("COMMIT");
    snapshots_stay(session, seen);
}

/// Asserts that stored and pending counts together equal a recount.
#[track_caller]
fn counts_are_exact(session: &mut Session) {
    let expected: BTreeMap<IpAddr, i64> =
        sessions_per_address(session, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    let counted: BTreeMap<IpAddr, i64> = pairs(
        session,
        "SELECT host(ip_address), sum(n) FROM (
             SELECT ip_address, session_count AS n FROM enrich.ip_inventory
             UNION ALL SELECT ip_address, sessions FROM enrich.session_delta) c
         GROUP BY ip_address HAVING sum(n) <> 0",
    );
    let wrong: Vec<_> = expected
        .keys()
        .chain(counted.keys())
        .filter(|address| expected.get(address) != counted.get(address))
        .map(|address| (address, counted.get(address), expected.get(address)))
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "sessions by address, stored and pending, and as they are: {wrong:?}");

    let wrong = session.rows(
        "WITH counted AS (
             SELECT asn_number, sum(addresses) AS addresses, sum(sessions) AS sessions FROM (
                 SELECT asn_number, unique_ip_count AS addresses, total_session_count AS sessions FROM enrich.asn_inventory
                 UNION ALL SELECT asn_number, addresses, sessions FROM enrich.network_delta) c
             GROUP BY asn_number
         ), there AS (
             SELECT current_asn AS asn_number, count(*) AS addresses, sum(session_count) AS sessions
             FROM enrich.ip_inventory WHERE current_asn IS NOT NULL GROUP BY current_asn)
         SELECT asn_number, c.addresses, c.sessions, t.addresses, t.sessions
         FROM counted c FULL JOIN there t USING (asn_number)
         WHERE (coalesce(c.addresses, 0), coalesce(c.sessions, 0)) <> (coalesce(t.addresses, 0), coalesce(t.sessions, 0))
         LIMIT 5",
    );
    assert_eq!(wrong, [""; 0], "network, addresses and sessions stored and pending, and as they are");
}

#[track_caller]
fn references_hold(session: &mut Session) {
    // Reads both tables instead of relying on the keys' triggers, because the triggers are under test.
    let dangling = session.rows(
        "SELECT i.ip_address, i.current_asn FROM enrich.ip_inventory i
         WHERE i.current_asn IS NOT NULL
           AND NOT EXISTS (SELECT FROM enrich.asn_inventory n WHERE n.asn_number = i.current_asn)
         UNION ALL
         SELECT s.source_ip, NULL FROM session_summaries s
         WHERE s.source_ip IS NOT NULL
           AND NOT EXISTS (SELECT FROM enrich.ip_inventory i WHERE i.ip_address = s.source_ip)
         LIMIT 5",
    );
    assert_eq!(dangling, [""; 0], "these point at nothing");
}

/// Asserts that `ip_asn_history` has a row for each move of an address into a network, and that the last row of an
/// address names its current network.
#[track_caller]
fn history_is_sound(session: &mut Session) {
    let wrong = session.rows(
        "WITH lines AS (
             SELECT ip_address, asn_number,
                    lag(asn_number) OVER w AS before, lead(asn_number) OVER w AS after
             FROM enrich.ip_asn_history
             WINDOW w AS (PARTITION BY ip_address ORDER BY observed_at))
         SELECT 'twice in a row', l.ip_address, l.asn_number::text FROM lines l WHERE l.before = l.asn_number
         UNION ALL
         SELECT 'not where it is', l.ip_address, (SELECT string_agg(concat_ws(' ', h.asn_number, h.verification_source, h.observed_at), ', '
                                                       ORDER BY h.observed_at)
                                              || '; current ' || coalesce(i.current_asn::text, 'none') || ' verified ' || coalesce(i.asn_last_verified::text, 'never')
                                              || ' ' || i.enrichment::text
                                              FROM enrich.ip_asn_history h WHERE h.ip_address = l.ip_address)
         FROM lines l JOIN enrich.ip_inventory i USING (ip_address)
         WHERE l.after IS NULL AND i.current_asn IS DISTINCT FROM l.asn_number
         UNION ALL
         SELECT 'without a line', i.ip_address, i.current_asn::text FROM enrich.ip_inventory i
         WHERE i.current_asn IS NOT NULL
           AND NOT EXISTS (SELECT FROM enrich.ip_asn_history h WHERE h.ip_address = i.ip_address)
         LIMIT 5",
    );
    assert_eq!(wrong, [""; 0], "lines of history");
}

/// Asserts that each lookup at a provider of `enabled_sources` was answered, is queued, or is a dead letter with a
/// reason. Also asserts that each job has addresses, and that each waiting address has a job.
#[track_caller]
fn no_lookup_is_lost(session: &mut Session) {
    let lost = session.rows(
        "SELECT 'not queued', i.ip_address, p.provider
         FROM enrich.ip_inventory i
         JOIN enrich.providers() p
           ON p.provider = ANY (string_to_array(replace(current_setting('cowrie_enrich.enabled_sources'), ' ', ''), ','))
         WHERE NOT i.is_bogon AND (p.provider <> 'cymru' OR i.current_asn IS NULL)
           AND enrich.may_be_asked(p.provider, i.ip_address)
           AND enrich.is_source_open(i.enrichment, p.provider, false)
           AND NOT EXISTS (SELECT FROM enrich.enrichment_request r WHERE (r.provider, r.ip_address) = (p.provider, i.ip_address))
           AND NOT EXISTS (SELECT FROM enrich.job_address a WHERE (a.provider, a.ip_address) = (p.provider, i.ip_address))
           AND NOT EXISTS (SELECT FROM enrich.dead_letter d WHERE (d.provider, d.ip_address) = (p.provider, i.ip_address))
         UNION ALL
         SELECT 'without a job', a.ip_address, a.provider FROM enrich.job_address a
         WHERE NOT EXISTS (SELECT FROM enrich.enrichment_job j WHERE (j.provider, j.lookup_kind, j.lookup_key) = (a.provider, a.lookup_kind, a.lookup_key))
         UNION ALL
         SELECT 'without an address', j.lookup_key::inet, j.provider FROM enrich.enrichment_job j
         WHERE NOT EXISTS (SELECT FROM enrich.job_address a WHERE (a.provider, a.lookup_key) = (j.provider, j.lookup_key))
         UNION ALL
         SELECT 'buried without a reason', d.ip_address, d.provider FROM enrich.dead_letter d WHERE d.last_error = ''
         LIMIT 5",
    );
    assert_eq!(lost, [""; 0], "lookups");
}

/// Asserts that no value in a session's snapshot columns has changed. A session that was deleted and stored again
/// counts as another session.
#[track_caller]
fn snapshots_stay(session: &mut Session, seen: &mut Snapshots) {
    let mut now = BTreeMap::new();
    for host in HOSTS {
        // Identifies a session by its key and address, because no UPDATE of the extension changes these values.
        for row in session.rows(&format!(
            "SELECT trim({key}) || ' ' || coalesce(host(enrich.session_address({address})), ''), snapshot_asn, snapshot_country,
                    snapshot_ip_type, md5(enrichment::text), enrichment_at FROM {table}",
            key = host.key,
            address = host.address,
            table = host.table
        )) {
            let mut columns = row.split('|').map(str::to_owned);
            let key = format!("{} {}", host.table, columns.next().expect("a key"));
            now.insert(key, std::array::from_fn(|_| columns.next().expect("five columns")));
        }
    }
    for (key, before) in &seen.0 {
        let Some(after) = now.get(key) else { continue };
        // Column 4 is the time of the enrichment. If this time differs, the session was deleted and stored again.
        if before[4] != "NULL" && before[4] != after[4] && after[4] != "NULL" {
            continue;
        }
        for (was, is) in before.iter().zip(after) {
            assert!(was == "NULL" || was == is, "the snapshot of {key} was {before:?} and is {after:?}");
        }
    }
    seen.0 = now;
}

fn pairs(session: &mut Session, query: &str) -> BTreeMap<IpAddr, i64> {
    session
        .rows(query)
        .iter()
        .map(|row| {
            let (address, number) = row.split_once('|').expect("two columns");
            (address.parse().expect("an address"), number.parse().expect("a number"))
        })
        .collect()
}

/// Asserts that shared memory is correct while the queue is empty: the processes that it names exist, and no request is
/// in flight.
#[track_caller]
pub fn assert_shared_memory_is_sane(session: &mut Session) {
    let mut processes = Vec::new();
    for row in session
        .rows("SELECT role, coalesce(database, ''), pid FROM enrich.worker_status() WHERE pid IS NOT NULL")
    {
        let columns: Vec<&str> = row.split('|').collect();
        let expected = format!("cowrie_enrich {}", columns[0]);
        assert_eq!(
            session.rows(&format!("SELECT backend_type FROM pg_stat_activity WHERE pid = {}", columns[2])),
            [expected],
            "{row}"
        );
        processes.push(format!("{} {}", columns[0], columns[1]));
    }
    processes.sort();
    let number = processes.len();
    processes.dedup();
    assert_eq!(processes.len(), number, "a process has two slots: {processes:?}");
    assert!(processes.contains(&"launcher ".to_owned()), "{processes:?}");
    // Waits, because a sweep may have queued another lookup since the queue was empty. A lost permit would stay in
    // flight for ever.
    wait_until(
        "no request is in flight and each breaker is closed",
        || {
            session.rows("SELECT provider, in_flight, state FROM enrich.provider_status() WHERE in_flight <> 0 OR state <> 'closed'")
        },
        Vec::is_empty,
    );
    assert_eq!(
        session.rows("SELECT name, labels, value FROM enrich.enrich_metrics WHERE value < 0"),
        [""; 0]
    );
    assert_eq!(session.rows("SELECT procedure, phase FROM enrich.enrich_progress"), [""; 0]);
}

/// Asserts that indexes agree with their tables, if the server has amcheck.
pub fn assert_indexes_are_sound(session: &mut Session) -> bool {
    if session.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") == 0 {
        return false;
    }
    session.run("CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA public");
    session.rows(
        "SELECT public.bt_index_check(i.indexrelid, true)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
         WHERE a.amname = 'btree' AND i.indisvalid
           AND c.relnamespace IN ('public'::regnamespace, 'enrich'::regnamespace)",
    );
    true
}
