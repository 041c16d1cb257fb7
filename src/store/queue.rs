//! The queue: requests, jobs, leases, dead letters.
//!
//! A lease is a due time in the future and the number of who holds it. Nobody finishes or fails a job without holding
//! its lease, and every step is a short transaction, so a process that is killed leaves jobs that fall due again.

use std::collections::BTreeMap;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key;
use cowrie_enrich_engine::prefix::Prefix;
use pgrx::pg_sys;

use super::Home;
use crate::pg::array::{self, Element};
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Rows, Statement};
use crate::pg::{catalog, clock, inet, text};
use crate::provider::Provider;

/// Requests taken in by one transaction: a fraction of a second.
pub const MOST_TAKEN_IN: i64 = 10_000;

thread_local! {
    static APPEND: Statement = const { Statement::new(
        "queue_append", include_str!("../../sql/queries/queue/queue_append.sql"),
        &[pg_sys::INETOID, pg_sys::TEXTOID, pg_sys::INT4OID]) };
    static TAKE_IN: Statement = const { Statement::new(
        "queue_take_in", include_str!("../../sql/queries/queue/queue_take_in.sql"),
        &[pg_sys::INT8OID, pg_sys::FLOAT8OID, pg_sys::INT8OID, pg_sys::TEXTARRAYOID, pg_sys::BOOLARRAYOID,
          pg_sys::INT4ARRAYOID, pg_sys::INT4ARRAYOID]) };
    static ANALYZE: Statement = const { Statement::new(
        "queue_analyze", include_str!("../../sql/queries/queue/queue_analyze.sql"), &[]) };
    static CLAIM: Statement = const { Statement::new(
        "jobs_claim", include_str!("../../sql/queries/queue/jobs_claim.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::FLOAT8OID, pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::INT4OID,
          pg_sys::BOOLOID, pg_sys::BOOLOID]) };
    static RELEASE: Statement = const { Statement::new(
        "jobs_release", include_str!("../../sql/queries/queue/jobs_release.sql"), &[pg_sys::INT8OID]) };
    static GIVE_BACK: Statement = const { Statement::new(
        "jobs_give_back", include_str!("../../sql/queries/queue/jobs_give_back.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::INT8OID]) };
    static NEXT_DUE: Statement = const { Statement::new(
        "jobs_next_due", include_str!("../../sql/queries/queue/jobs_next_due.sql"), &[pg_sys::TEXTOID]) };
    static HOLD: Statement = const { Statement::new(
        "jobs_hold", include_str!("../../sql/queries/queue/jobs_hold.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::INT8OID]) };
    static DONE: Statement = const { Statement::new(
        "jobs_done", include_str!("../../sql/queries/queue/jobs_done.sql"), &[pg_sys::TEXTOID, pg_sys::INETARRAYOID]) };
    static SETTLE: Statement = const { Statement::new(
        "jobs_settle", include_str!("../../sql/queries/queue/jobs_settle.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::FLOAT8OID]) };
    static FAIL: Statement = const { Statement::new(
        "jobs_fail", include_str!("../../sql/queries/queue/jobs_fail.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::BOOLARRAYOID, pg_sys::FLOAT8OID,
          pg_sys::INT4OID, pg_sys::TIMESTAMPTZOID, pg_sys::FLOAT8OID]) };
}

/// Who holds leases, and for how long.
#[derive(Clone, Copy)]
pub struct Lease {
    pub holder: i64,
    pub seconds: f64,
}

/// A job that was leased, and the address to ask about; none where an earlier answer serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimed {
    pub lookup_key: Prefix,
    pub ask: Option<Address>,
}

/// Requests that were taken in.
#[derive(Default)]
pub struct TakenIn {
    pub requests: i64,
    /// Whose jobs came of them, each with those of its jobs that an earlier answer serves, leased.
    pub jobs: BTreeMap<Provider, Vec<Prefix>>,
}

/// Why a job has no answer.
pub struct Failed {
    pub lookup_key: Prefix,
    pub error: String,
    pub blame: Blame,
}

/// Whether a failure is held against the lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    Always,
    /// Only if the provider has answered somebody since the lookup's last failure: else it is down for everybody.
    UnlessDown,
    /// The provider put everybody off, or nothing was sent: that says nothing of the lookup, whoever was answered.
    Never,
}

/// Queues one lookup.
pub fn append(connection: &Connection, address: Address, provider: Provider, priority: i32) {
    let arguments = [Some(inet::write(address)), name(provider), Some(pg_sys::Datum::from(priority))];
    APPEND.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// The table of requests.
pub fn request_table(home: Home) -> pg_sys::Oid {
    relation::find(home.schema, c"enrichment_request")
}

/// Queues lookups below the executor: on the path of a session's commit. The table's trigger does not see it, so the
/// caller sees to it that the worker is woken.
pub fn append_all(home: Home, requests: impl Iterator<Item = (Address, Provider)>) {
    let Some(table) = Table::open(request_table(home), pg_sys::RowExclusiveLock) else { return };
    let now = pg_sys::Datum::from(clock::transaction_start());
    const TYPES: [pg_sys::Oid; 4] =
        [pg_sys::INETOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::TIMESTAMPTZOID];
    table.append(
        TYPES,
        requests.map(|(address, provider)| {
            [Some(inet::write(address)), name(provider), Some(pg_sys::Datum::from(0)), Some(now)]
        }),
    );
}

/// Turns requests into jobs.
pub fn take_in(connection: &Connection, lease: Lease) -> TakenIn {
    let each = |element, value: fn(Provider) -> pg_sys::Datum| {
        Some(array::write(element, Provider::all().map(|provider| Some(value(provider)))))
    };
    let arguments = [
        Some(pg_sys::Datum::from(MOST_TAKEN_IN)),
        float(lease.seconds),
        Some(pg_sys::Datum::from(lease.holder)),
        each(Element::Text, |provider| text::write(provider.name())),
        each(Element::Boolean, |provider| pg_sys::Datum::from(provider.declared().shares_answers())),
        each(Element::Integer, |provider| pg_sys::Datum::from(provider.lifetimes().value)),
        each(Element::Integer, |provider| pg_sys::Datum::from(provider.lifetimes().absent)),
    ];
    TAKE_IN.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let mut jobs: BTreeMap<Provider, Vec<Prefix>> = BTreeMap::new();
            for row in 0..rows.count {
                let provider = rows.text(row, 2).and_then(|name| Provider::named(&name));
                let Some(provider) = provider else { continue };
                jobs.entry(provider).or_default().extend(read_key(rows, row, 3));
            }
            TakenIn { requests: rows.bigint(0, 1).unwrap_or_default(), jobs }
        })
    })
}

/// Tells the planner of many new jobs, which autovacuum would only do after a while. The tables' owner may do that, and
/// `worker_role` may be somebody else.
pub fn analyze(home: Home, connection: &Connection) {
    if catalog::owner_of_table(relation::find(home.schema, c"enrichment_job")) != Some(home.owner) {
        return;
    }
    ANALYZE.with(|statement| connection.run(statement, &[], |_| ()));
}

/// Leases the most urgent jobs that are due, and names the most urgent first. To `probe`, those that have waited longest.
pub fn claim(
    connection: &Connection,
    provider: Provider,
    most: usize,
    lease: Lease,
    probe: bool,
) -> Vec<Claimed> {
    let lifetimes = provider.lifetimes();
    let arguments = [
        name(provider),
        Some(pg_sys::Datum::from(most as i64)),
        float(lease.seconds),
        Some(pg_sys::Datum::from(lease.holder)),
        Some(pg_sys::Datum::from(lifetimes.value)),
        Some(pg_sys::Datum::from(lifetimes.absent)),
        Some(pg_sys::Datum::from(provider.declared().shares_answers())),
        Some(pg_sys::Datum::from(probe)),
    ];
    CLAIM.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let claimed = |row| {
                read_key(rows, row, 1).map(|lookup_key| Claimed { lookup_key, ask: rows.address(row, 2) })
            };
            (0..rows.count).filter_map(claimed).collect()
        })
    })
}

/// Takes over what a predecessor left: every lease that is not `holder`'s ends now.
pub fn release_others(connection: &Connection, holder: i64) {
    RELEASE.with(|statement| connection.run(statement, &[Some(pg_sys::Datum::from(holder))], |_| ()));
}

/// Jobs that were leased in vain.
pub fn give_back(connection: &Connection, provider: Provider, lookup_keys: &[Prefix], lease: Lease) {
    let arguments = [name(provider), write_keys(lookup_keys), Some(pg_sys::Datum::from(lease.holder))];
    GIVE_BACK.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// When the next job falls due, in microseconds since 2000.
pub fn next_due(connection: &Connection, provider: Provider) -> Option<i64> {
    NEXT_DUE.with(|statement| connection.run(statement, &[name(provider)], |rows| rows.bigint(0, 1)))
}

/// Those of the jobs whose lease is still the caller's, locked until the transaction ends.
pub fn hold(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[Prefix],
    lease: Lease,
) -> Vec<Prefix> {
    let arguments = [name(provider), write_keys(lookup_keys), Some(pg_sys::Datum::from(lease.holder))];
    HOLD.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            (0..rows.count).filter_map(|row| read_key(rows, row, 1)).collect()
        })
    })
}

/// These addresses have their answer.
pub fn done(connection: &Connection, provider: Provider, addresses: &[Address]) {
    let arguments = [name(provider), Some(array::inets(addresses))];
    DONE.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Ends jobs that were answered. Where an address is `blocked` by another transaction, the job falls due after `pause`
/// seconds.
pub fn settle(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[Prefix],
    blocked: &[Prefix],
    pause: f64,
) {
    let arguments = [name(provider), write_keys(lookup_keys), write_keys(blocked), float(pause)];
    SETTLE.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// What jobs may fail how often.
pub struct RetryPolicy {
    pub base_seconds: f64,
    pub max_attempts: i32,
    /// When the provider last answered anybody, microseconds since 2000.
    pub last_success: i64,
    /// In [0, 1).
    pub random: f64,
}

/// Ends jobs without an answer; the addresses that became dead letters, each with the error.
pub fn fail(
    connection: &Connection,
    provider: Provider,
    failed: &[&Failed],
    policy: &RetryPolicy,
) -> Vec<(Address, String)> {
    if failed.is_empty() {
        return Vec::new();
    }
    let lookup_keys: Vec<Prefix> = failed.iter().map(|failed| failed.lookup_key).collect();
    let arguments = [
        name(provider),
        write_keys(&lookup_keys),
        Some(array::write(Element::Text, failed.iter().map(|failed| Some(text::write(&failed.error))))),
        Some(array::write(
            Element::Boolean,
            failed.iter().map(|failed| match failed.blame {
                Blame::Always => Some(pg_sys::Datum::from(true)),
                Blame::UnlessDown => Some(pg_sys::Datum::from(false)),
                Blame::Never => None,
            }),
        )),
        float(policy.base_seconds),
        Some(pg_sys::Datum::from(policy.max_attempts)),
        Some(pg_sys::Datum::from(policy.last_success)),
        float(policy.random),
    ];
    FAIL.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            (0..rows.count)
                .filter_map(|row| Some((rows.address(row, 1)?, rows.text(row, 2).unwrap_or_default())))
                .collect()
        })
    })
}

fn name(provider: Provider) -> Option<pg_sys::Datum> {
    Some(text::write(provider.name()))
}

fn float(value: f64) -> Option<pg_sys::Datum> {
    pgrx::IntoDatum::into_datum(value)
}

/// Writes lookup keys as the tables of the queue have them.
pub(super) fn write_keys(lookup_keys: &[Prefix]) -> Option<pg_sys::Datum> {
    let texts = lookup_keys.iter().map(|key| Some(text::write(&lookup_key::text(*key))));
    Some(array::write(Element::Text, texts))
}

/// Reads a column that holds a lookup key.
pub(super) fn read_key(rows: &Rows, row: usize, column: i32) -> Option<Prefix> {
    lookup_key::parse(&rows.text(row, column)?)
}
