//! A server whose workers send requests to a Team Cymru stand-in, and the expected contents of its tables.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cowrie_enrich_upstreams::{FOREIGN_ASN, Routes, Whois, synthetic_asn};

use crate::cluster::{Cluster, Options, SUPERUSER};
use crate::database::{Database, cluster_with_world, fresh_database};
use crate::hosts::{COWRIE, SUMMARIES};
use crate::session::Session;
use crate::wait::wait_until;

pub struct Lab {
    // Dropped before `whois`, to which it sends requests.
    pub cluster: Cluster,
    pub whois: Whois,
}

impl Lab {
    /// Starts workers with a synthetic internet, no rate limit, and short pauses. Lines of `options` override these
    /// settings.
    pub fn start(options: Options) -> Self {
        Self::with_routes(options, Routes::synthetic())
    }

    pub fn with_routes(options: Options, routes: Routes) -> Self {
        let whois = Whois::start(routes);
        let cluster = cluster_with_world(&pointed_at(&whois, options));
        Self { cluster, whois }
    }

    /// Returns a new database. Its worker starts with the first work.
    pub fn database(&self) -> Database<'_> {
        fresh_database(&self.cluster)
    }

    /// Changes settings. When this returns, no worker is in a round, and every worker reads the settings before its
    /// next round.
    pub fn reconfigure(&self, lines: &[&str]) {
        reconfigure(&self.cluster, lines);
    }

    /// Asserts that no process crashed.
    #[track_caller]
    pub fn assert_nothing_crashed(&self) {
        assert_nothing_crashed(&self.cluster);
    }
}

/// Returns options of a server that sends requests to `whois`.
pub fn pointed_at(whois: &Whois, options: Options) -> Options {
    let own = [
        format!("cowrie_enrich.cymru_whois_port = {}", whois.port()),
        "cowrie_enrich.cymru_rate = 0".to_owned(),
        "cowrie_enrich.retry_base = 20ms".to_owned(),
        "cowrie_enrich.worker_naptime = 200ms".to_owned(),
        // Each database has a worker, and a test may create many databases.
        "max_worker_processes = 40".to_owned(),
    ];
    options.conf_before(&own)
}

/// See [`Lab::reconfigure`].
pub fn reconfigure(cluster: &Cluster, lines: &[&str]) {
    // A new backend has the settings that the postmaster had at the fork. The postmaster signals all other processes
    // before it forks.
    let loaded = || cluster.session(SUPERUSER).one("SELECT pg_conf_load_time()");
    let before = loaded();
    let lines: Vec<String> = lines.iter().map(|line| format!("cowrie_enrich.{line}")).collect();
    cluster.reconfigure(&lines);
    wait_until("the postmaster has read the settings", loaded, |now| *now != before);
    let mut session = cluster.session(SUPERUSER);
    wait_until(
        "no worker is in the middle of a round",
        || {
            session.number(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'cowrie_enrich worker' AND state <> 'idle'",
            )
        },
        |busy| *busy == 0,
    );
}

#[track_caller]
pub fn assert_nothing_crashed(cluster: &Cluster) {
    let log = cluster.whole_log();
    let bad: Vec<&str> = log
        .lines()
        .filter(|line| {
            ["terminated by signal", "PANIC", "panicked", "server process ("].iter().any(|b| line.contains(b))
        })
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

/// Returns an address of the `block`-th of 250,000 /24s that are in no mmdb file.
pub fn member(block: usize, host: u8) -> IpAddr {
    let (a, rest) = (60 + block % 20, block / 20);
    let (b, c) = (rest % 250, rest / 250);
    Ipv4Addr::new(a as u8, b as u8, c as u8, host).into()
}

/// Returns an address of the `block`-th of 65,536 /48s that are in no mmdb file.
pub fn member6(block: usize, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2a10, block as u16, 7, host, 0, 0, 0, 1).into()
}

/// Returns one address of each of these /24s.
pub fn members(blocks: std::ops::Range<usize>) -> Vec<IpAddr> {
    blocks.map(|block| member(block, 7)).collect()
}

pub fn array(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    format!("'{{{}}}'::inet[]", texts.join(","))
}

/// Queues a lookup for each address, in one transaction.
pub fn queue(session: &mut Session, addresses: &[IpAddr]) {
    session.run(&format!(
        "INSERT INTO enrich.enrichment_request (ip_address, provider) SELECT unnest({}), 'cymru'",
        array(addresses)
    ));
}

/// Waits until the queue is empty, and until an owner process has tried to complete every session whose address has
/// an answer. Dead letters and sessions in backoff may be left. If the first attempt failed, waits for another one,
/// because the machine may have been busy. If this takes too long, shows the reasons.
#[track_caller]
pub fn wait_for_the_queue(session: &mut Session) {
    let mut busy = false;
    wait_until(
        "the queue is empty",
        || {
            // The cheap query comes first: counting everything every few milliseconds would use most of the machine.
            let left = session.number(
                "SELECT (SELECT count(*) FROM (SELECT FROM enrich.enrichment_request LIMIT 1) r)
                      + (SELECT count(*) FROM (SELECT FROM enrich.enrichment_job LIMIT 1) j)
                      + (SELECT count(*) FROM (SELECT FROM enrich.incomplete_session LIMIT 1) i)
                      + (SELECT count(*) FROM (SELECT FROM enrich.session_completion
                         WHERE due_at IS NOT NULL
                           AND (attempts = 0 OR attempts < 12 AND last_error ~ '(too long|lock)'
                                -- On a busy machine the worker may end an owner process that works correctly.
                                OR last_error IS NULL AND NOT EXISTS (SELECT FROM enrich.suspended_owner))
                         LIMIT 1) c)",
            );
            if left == 0 {
                return String::new();
            }
            if std::mem::replace(&mut busy, true) {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            state(session)
        },
        String::is_empty,
    );
}

/// Returns the state of the queue, the worker and the providers, for messages.
pub fn state(session: &mut Session) -> String {
    let mut parts =
        session.rows("SELECT 'queue', q.* FROM enrich.queue_status q WHERE jobs + requested + dead > 0");
    parts.extend(session.rows(
        "SELECT 'job', provider, lookup_key, due_at - now(), leased_by, attempts, last_error
         FROM enrich.enrichment_job ORDER BY due_at LIMIT 3",
    ));
    parts.extend(session.rows("SELECT 'inbox', count(*) FROM enrich.incomplete_session HAVING count(*) > 0"));
    parts.extend(session.rows("SELECT 'completion', c.* FROM enrich.completion_status c LIMIT 5"));
    parts.extend(session.rows("SELECT 'worker', w.* FROM enrich.worker_status() w"));
    parts.extend(session.rows(
        "SELECT 'provider', provider, state, blocked_reason, failures, backoff_until - now(), in_flight, last_error, quota_left
         FROM enrich.provider_status() WHERE blocked_reason IS DISTINCT FROM 'not in cowrie_enrich.enabled_sources'",
    ));
    parts.join("\n")
}

/// Returns one of the provider's counters.
#[track_caller]
pub fn provider(session: &mut Session, column: &str) -> i64 {
    session.number(&format!("SELECT {column} FROM enrich.provider_status() WHERE provider = 'cymru'"))
}

/// Waits until no request is in flight to a provider. A worker returns a request's permit after it has stored the
/// answers, so the queue is empty a little earlier.
pub fn wait_for_permits(session: &mut Session) {
    wait_until(
        "all permits are back",
        || session.number("SELECT sum(in_flight) FROM enrich.provider_status()"),
        |in_flight| *in_flight == 0,
    );
}

/// Returns the process of the worker of the session's database, once it runs.
pub fn worker_pid(session: &mut Session) -> i64 {
    wait_until("the database has a worker", || worker_pid_now(session), Option::is_some).expect("it has one")
}

/// Queues a request, so that the launcher starts the worker of the database. Waits for the worker, and deletes the
/// request.
pub fn start_worker(session: &mut Session) {
    session.run(
        "INSERT INTO enrich.enrichment_request (ip_address, provider) VALUES ('60.0.0.1', 'cymru');
         DELETE FROM enrich.enrichment_request",
    );
    worker_pid(session);
}

pub fn worker_pid_now(session: &mut Session) -> Option<i64> {
    let pids = session.rows(
        "SELECT pid FROM enrich.worker_status()
         WHERE database = current_database() AND role = 'worker' AND pid IS NOT NULL",
    );
    pids.first().map(|pid| pid.parse().expect("a process number"))
}

/// Returns the peak of a process's memory, in kB.
pub fn peak_memory(pid: i64) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns the stored network of each address; `None` while an address has none.
pub fn stored(session: &mut Session) -> BTreeMap<IpAddr, Option<u64>> {
    session
        .rows("SELECT host(ip_address), current_asn FROM enrich.ip_inventory")
        .iter()
        .map(|row| {
            let (address, asn) = row.split_once('|').expect("two columns");
            (address.parse().expect("an address"), asn.parse().ok())
        })
        .collect()
}

/// Asserts that every address has the network that the synthetic internet gives it, and one row of history with this
/// network.
#[track_caller]
pub fn assert_placed(session: &mut Session, addresses: &[IpAddr]) {
    let stored = stored(session);
    let wrong: Vec<_> = addresses
        .iter()
        .map(|address| (address, stored.get(address)))
        .filter(|(address, asn)| *asn != Some(&Some(synthetic_asn(**address))))
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?} of {} addresses\n{}", addresses.len(), state(session));
    let history: BTreeMap<String, i64> = session
        .rows(&format!(
            "SELECT host(ip_address) || ' ' || asn_number || ' ' || verification_source, count(*)
             FROM enrich.ip_asn_history WHERE ip_address = ANY ({}) GROUP BY 1",
            array(addresses)
        ))
        .iter()
        .map(|row| row.split_once('|').map(|(k, n)| (k.to_owned(), n.parse().expect("a count"))))
        .map(|pair| pair.expect("two columns"))
        .collect();
    let expected: BTreeMap<String, i64> =
        addresses.iter().map(|a| (format!("{a} {} cymru", synthetic_asn(*a)), 1)).collect();
    let differ = history.iter().filter(|(k, n)| expected.get(*k) != Some(n)).take(5).collect::<Vec<_>>();
    assert!(differ.is_empty(), "history that should not be: {differ:?}");
    assert_eq!(history.len(), expected.len(), "lines of history");
}

/// Asserts that only requested addresses have a network, and that it is the right network.
#[track_caller]
pub fn assert_nothing_wrong(session: &mut Session, addresses: &[IpAddr]) {
    let wrong: Vec<_> = stored(session)
        .into_iter()
        .filter(|(address, asn)| {
            !addresses.contains(address) || asn.is_some_and(|asn| asn != synthetic_asn(*address))
        })
        .take(5)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(
        session
            .number(&format!("SELECT count(*) FROM enrich.asn_inventory WHERE asn_number = {FOREIGN_ASN}")),
        0
    );
}

/// Asserts that every session in the tables of both hosts has the network of its address.
#[track_caller]
pub fn assert_snapshots_are_complete(session: &mut Session) {
    for host in [&COWRIE, &SUMMARIES] {
        assert_eq!(
            session.number(&format!(
                "SELECT count(*) FROM {} s JOIN enrich.ip_inventory i ON i.ip_address = s.{}::inet
                 WHERE s.snapshot_asn IS DISTINCT FROM i.current_asn",
                host.table, host.address
            )),
            0,
            "sessions of {} without their network",
            host.table
        );
    }
}
