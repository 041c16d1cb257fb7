//! The queue: requests, jobs, leases, dead letters.
//!
//! A lease has two parts: a due time in the future, and the id of the worker that holds the lease. Only the holder of its lease
//! can finish a job or mark it as failed. Every step is a short transaction. If a worker is killed, its jobs become due again
//! when their leases end.

use std::collections::BTreeMap;
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Float, Inet, Integer, Text, Timestamptz, ToSql, array};
use crate::pg::{Oid, catalog, clock};
use crate::provider::Provider;

/// Maximum number of requests from which one transaction creates jobs. This takes a fraction of a second.
pub const MOST_REQUESTS_AT_ONCE: i64 = 10_000;

thread_local! {
    static APPEND: Statement<(Inet, Text, Integer)> = const { Statement::new(
        "queue_append", include_str!("../../sql/queries/queue/queue_append.sql")) };
    static APPEND_NETWORK: Statement<(Bigint, Text)> = const { Statement::new(
        "queue_append_network", include_str!("../../sql/queries/queue/queue_append_network.sql")) };
    static RETRY_DEAD_LETTERS: Statement<(Text,), (Bigint,)> = const { Statement::new(
        "dead_letters_retry", include_str!("../../sql/queries/queue/dead_letters_retry.sql")) };
    static CREATE_JOBS: Statement<
        (Bigint, Float, Bigint, Array<Text>, Array<Boolean>, Array<Integer>, Array<Integer>, Array<Boolean>),
        (Bigint, Text, Text),
    > = const { Statement::new(
        "jobs_create", include_str!("../../sql/queries/queue/jobs_create.sql")) };
    static ANALYZE: Statement<()> = const { Statement::new(
        "queue_analyze", include_str!("../../sql/queries/queue/queue_analyze.sql")) };
    static CLAIM: Statement<
        (Text, Bigint, Float, Bigint, Integer, Integer, Boolean, Boolean, Boolean),
        (Text, Inet),
    > = const { Statement::new(
        "jobs_claim", include_str!("../../sql/queries/queue/jobs_claim.sql")) };
    static RELEASE: Statement<(Bigint,)> = const { Statement::new(
        "jobs_release", include_str!("../../sql/queries/queue/jobs_release.sql")) };
    static GIVE_BACK: Statement<(Text, Array<Text>, Bigint)> = const { Statement::new(
        "jobs_give_back", include_str!("../../sql/queries/queue/jobs_give_back.sql")) };
    static NEXT_DUE: Statement<(Text, Boolean), (Timestamptz,)> = const { Statement::new(
        "jobs_next_due", include_str!("../../sql/queries/queue/jobs_next_due.sql")) };
    static HOLD: Statement<(Text, Array<Text>, Bigint), (Text,)> = const { Statement::new(
        "jobs_hold", include_str!("../../sql/queries/queue/jobs_hold.sql")) };
    static DONE: Statement<(Text, Array<Inet>)> = const { Statement::new(
        "jobs_done", include_str!("../../sql/queries/queue/jobs_done.sql")) };
    static FINISH: Statement<(Text, Array<Text>, Array<Text>, Float)> = const { Statement::new(
        "jobs_finish", include_str!("../../sql/queries/queue/jobs_finish.sql")) };
    static FAIL: Statement<
        (Text, Array<Text>, Array<Text>, Array<Boolean>, Float, Integer, Timestamptz, Float),
        (Inet, Bigint, Text),
    > = const { Statement::new(
        "jobs_fail", include_str!("../../sql/queries/queue/jobs_fail.sql")) };
}

/// The worker that holds leases, and the duration of these leases.
#[derive(Clone, Copy)]
pub struct Lease {
    pub holder: i64,
    pub duration: Duration,
}

/// A leased job, and the address about which the provider is asked. The address is `None` if an earlier answer can be used for
/// the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimedJob {
    pub lookup_key: LookupKey,
    pub ask: Option<Asked>,
}

/// The address or network about which a lookup asks the provider.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    Address(Address),
    /// The AS number of a network.
    Network(u32),
}

/// The result of creating jobs from requests.
#[derive(Default)]
pub struct CreatedJobs {
    pub requests: i64,
    /// The providers that got new jobs. The value for a provider contains lookup keys of new jobs for which an earlier answer
    /// can be used. These jobs are already leased.
    pub jobs: BTreeMap<Provider, Vec<LookupKey>>,
}

/// A job without an answer, and the reason why the answer is missing.
pub struct FailedJob {
    pub lookup_key: LookupKey,
    pub error: String,
    pub blame: Blame,
}

/// Says when a failure uses up an attempt of the lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    Always,
    /// The failure uses up an attempt only if the provider works. The provider works if it has answered any other lookup since
    /// the last time that this lookup failed. Otherwise the provider is considered down.
    UnlessDown,
    /// The failure uses up no attempt, because the lookup did not cause it. The provider refused all requests, or no request
    /// was sent.
    Never,
}

/// Queues one lookup.
pub fn append(connection: &Connection, address: Address, provider: Provider, priority: i32) {
    APPEND.execute(connection, (address, provider.name(), priority));
}

/// Queues the lookup of a network.
pub fn append_network(connection: &Connection, asn: u32, provider: Provider) {
    APPEND_NETWORK.execute(connection, (i64::from(asn), provider.name()));
}

/// Puts the dead letters of one provider or of all providers back into the queue. Returns the number of these dead letters.
pub fn retry_dead_letters(connection: &Connection, provider: Option<Provider>) -> i64 {
    let name = provider.map(Provider::name);
    RETRY_DEAD_LETTERS.first(connection, (name,), |(queued,)| queued).flatten().unwrap_or_default()
}

/// Returns the OID of the table with the requests.
pub fn request_table(oids: ExtensionOids) -> Oid {
    relation::find(oids.schema, c"enrichment_request")
}

/// Queues lookups without the executor, because this function runs during the commit of a session. The table's trigger does not
/// fire, so the caller must wake the worker.
pub fn append_all(oids: ExtensionOids, requests: impl Iterator<Item = (Address, Provider)>) {
    let Some(table) = Table::open_if_there_for_appending(request_table(oids)) else { return };
    let now = clock::transaction_start();
    table.append::<(Inet, Text, Integer, Timestamptz)>(
        requests.map(|(address, provider)| (address, provider.name(), 0, now)),
    );
}

/// Creates jobs from requests.
pub fn create_jobs(connection: &Connection, lease: Lease) -> CreatedJobs {
    let arguments = (
        MOST_REQUESTS_AT_ONCE,
        lease.duration.as_secs_f64(),
        lease.holder,
        array(Provider::all().map(|provider| provider.name())),
        array(Provider::all().map(|provider| provider.declared().shares_answers())),
        array(Provider::all().map(|provider| provider.lifetimes().value)),
        array(Provider::all().map(|provider| provider.lifetimes().absent)),
        array(Provider::all().map(|provider| provider.declared().knows_networks())),
    );
    CREATE_JOBS.run(connection, arguments, |rows| {
        let mut created = CreatedJobs::default();
        for (requests, name, key) in rows.iter() {
            created.requests = requests.unwrap_or_default();
            let Some(provider) = name.and_then(|name| Provider::named(&name)) else { continue };
            created.jobs.entry(provider).or_default().extend(key.as_deref().and_then(LookupKey::parse));
        }
        created
    })
}

/// Updates the planner's statistics after many jobs were created, because autovacuum would update them too late. Does nothing
/// if the current role does not own the tables. This is possible, because `worker_role` may be another role.
pub fn analyze(oids: ExtensionOids, connection: &Connection) {
    if catalog::owner_of_table(relation::find(oids.schema, c"enrichment_job")) != Some(oids.owner) {
        return;
    }
    ANALYZE.execute(connection, ());
}

/// Leases the most urgent due jobs, and returns these jobs in the order of urgency. If `probe` is true, instead leases the due
/// jobs that have waited for the longest time.
pub fn claim(
    connection: &Connection,
    provider: Provider,
    most: usize,
    lease: Lease,
    probe: bool,
) -> Vec<ClaimedJob> {
    let lifetimes = provider.lifetimes();
    let arguments = (
        provider.name(),
        most as i64,
        lease.duration.as_secs_f64(),
        lease.holder,
        lifetimes.value,
        lifetimes.absent,
        provider.declared().shares_answers(),
        probe,
        provider.looks_up_networks(),
    );
    CLAIM.run(connection, arguments, |rows| {
        let job = |(key, address): (Option<String>, Option<Address>)| {
            let lookup_key = LookupKey::parse(&key?)?;
            let ask = match lookup_key {
                LookupKey::Prefix(_) => address.map(Asked::Address),
                LookupKey::Network(asn) => Some(Asked::Network(asn)),
            };
            Some(ClaimedJob { lookup_key, ask })
        };
        rows.iter().filter_map(job).collect()
    })
}

/// Ends all leases except those of `holder`. The worker calls this function after the previous worker has stopped.
pub fn release_others(connection: &Connection, holder: i64) {
    RELEASE.execute(connection, (holder,));
}

/// Ends the leases of jobs whose requests were not sent.
pub fn give_back(connection: &Connection, provider: Provider, lookup_keys: &[LookupKey], lease: Lease) {
    GIVE_BACK.execute(connection, (provider.name(), keys(lookup_keys), lease.holder));
}

/// Returns the time at which the next job becomes due.
pub fn next_due(connection: &Connection, provider: Provider) -> Option<Timestamp> {
    let arguments = (provider.name(), provider.looks_up_networks());
    NEXT_DUE.first(connection, arguments, |(due,)| due).flatten()
}

/// Locks those jobs whose leases the caller still holds. The locks last until the transaction ends. Returns the lookup keys of
/// the locked jobs.
pub fn hold(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[LookupKey],
    lease: Lease,
) -> Vec<LookupKey> {
    HOLD.run(connection, (provider.name(), keys(lookup_keys), lease.holder), |rows| {
        rows.iter().filter_map(|(key,)| LookupKey::parse(&key?)).collect()
    })
}

/// Removes addresses from the queue, because their answers were stored.
pub fn done(connection: &Connection, provider: Provider, addresses: &[Address]) {
    DONE.execute(connection, (provider.name(), array(addresses)));
}

/// Ends jobs that were answered. If another transaction has locked an address of a job, the lookup key of this job is in
/// `blocked`. Such a job becomes due again after `pause`.
pub fn finish(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[LookupKey],
    blocked: &[LookupKey],
    pause: Duration,
) {
    FINISH.execute(connection, (provider.name(), keys(lookup_keys), keys(blocked), pause.as_secs_f64()));
}

/// The settings and values that decide whether and when a failed job is retried.
pub struct RetryPolicy {
    pub base: Duration,
    pub max_attempts: i32,
    /// The time at which the provider last answered any lookup.
    pub last_success: Timestamp,
    /// A random number from 0 up to, but not including, 1.
    pub random: f64,
}

/// Ends the current attempt of each of these jobs, because the jobs got no answer. Returns the addresses and networks whose
/// lookups became dead letters, each with the error.
pub fn fail(
    connection: &Connection,
    provider: Provider,
    failed: &[&FailedJob],
    policy: &RetryPolicy,
) -> Vec<(Asked, String)> {
    if failed.is_empty() {
        return Vec::new();
    }
    let lookup_keys: Vec<LookupKey> = failed.iter().map(|failed| failed.lookup_key).collect();
    let counts = failed.iter().map(|failed| match failed.blame {
        Blame::Always => Some(true),
        Blame::UnlessDown => Some(false),
        Blame::Never => None,
    });
    let arguments = (
        provider.name(),
        keys(&lookup_keys),
        array(failed.iter().map(|failed| &failed.error)),
        array(counts),
        policy.base.as_secs_f64(),
        policy.max_attempts,
        policy.last_success,
        policy.random,
    );
    FAIL.run(connection, arguments, |rows| {
        let network = |asn: Option<i64>| Some(Asked::Network(u32::try_from(asn?).ok()?));
        rows.iter()
            .filter_map(|(address, asn, error)| {
                let asked = address.map(Asked::Address).or_else(|| network(asn))?;
                Some((asked, error.unwrap_or_default()))
            })
            .collect()
    })
}

/// Converts lookup keys to the format of the queue's tables.
pub(super) fn keys(lookup_keys: &[LookupKey]) -> impl ToSql<Array<Text>> {
    array(lookup_keys.iter().map(|key| key.text()))
}
