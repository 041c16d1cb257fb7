//! Selects networks whose AS number is looked up at a provider, and stores the answers.
//!
//! The AS number of each network is looked up once after the network was created, and again when the answer has expired. A
//! partial index contains the networks for which no lookup was queued. The worker finds new networks with this index. So
//! storing a session does not queue a lookup of its network. Sweeps find the networks whose answers have expired. No addresses
//! wait for the job of a network.

use std::collections::BTreeMap;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Integer, Jsonb, Text, Typed, array};
use crate::provider::Provider;
use crate::store::networks::NetworkFacts;
use crate::telemetry::spans::NetworkSpans;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Maximum number of networks that one transaction queues or reads.
pub const MOST_AT_ONCE: i64 = 10_000;
/// Priority of network lookups that no user requested. Lookups of addresses have a higher priority, because sessions wait for
/// them.
const PRIORITY: i32 = -1;

type Texts = Array<Text>;

thread_local! {
    static QUEUE: Statement<(Text, Bigint, Integer), (Bigint,)> = const { Statement::new(
        "networks_queue", include_str!("../../sql/queries/queue/networks_queue.sql")) };
    static SWEEP: Statement<(Text, Bigint, Bigint, Integer, Integer, Integer), (Bigint, Bigint)> = const {
        Statement::new("networks_sweep", include_str!("../../sql/queries/queue/networks_sweep.sql"))
    };
    static ANSWER: Statement<
        (Array<Bigint>, Texts, Texts, Texts, Texts, Texts, Array<Jsonb>, Text),
        (Bigint, Text, Text, Text, Boolean),
    > = const { Statement::new(
        "networks_answer", include_str!("../../sql/queries/inventory/networks_answer.sql")) };
}

/// The parts of an answer about a network that are stored.
pub struct NetworkAnswer {
    pub facts: NetworkFacts,
    /// True if the provider has no facts about the network, or if the lookup failed. In both cases, no row is created for the
    /// network.
    pub is_absent: bool,
    /// The part of the network's document that holds the state of the lookup.
    pub document: Typed<Jsonb>,
}

/// Queues lookups of networks for which no lookup was queued before. Returns the number of queued lookups.
pub fn queue_new(connection: &Connection, provider: Provider) -> i64 {
    let arguments = (provider.name(), MOST_AT_ONCE, PRIORITY);
    QUEUE.first(connection, arguments, |(marked,)| marked).flatten().unwrap_or_default()
}

/// Queues lookups of networks whose answer has expired or whose job was lost. Begins after the ASN `after`. Returns the ASN
/// after which the next call must begin. Returns `None` if there are no more networks.
pub fn queue_expired(connection: &Connection, provider: Provider, after: i64) -> Option<i64> {
    let lifetimes = provider.lifetimes();
    let arguments = (provider.name(), MOST_AT_ONCE, after, lifetimes.value, lifetimes.absent, PRIORITY);
    let (last, read) = SWEEP.first(connection, arguments, |row| row)?;
    last.filter(|_| read >= Some(MOST_AT_ONCE))
}

/// Writes answers about networks. The rows of these networks are locked.
pub fn write(connection: &Connection, answers: &BTreeMap<i64, NetworkAnswer>, source: &str) {
    if answers.is_empty() {
        return;
    }
    let (work, spans) = (Work::begin(), NetworkSpans::begin(answers.len()));
    let texts = |field: fn(&NetworkFacts) -> &Option<String>| {
        array(answers.values().map(move |answer| field(&answer.facts).as_deref()))
    };
    let arguments = (
        array(answers.keys()),
        texts(|facts| &facts.name),
        texts(|facts| &facts.country),
        texts(|facts| &facts.registry),
        texts(|facts| &facts.as_name),
        texts(|facts| &facts.allocated_on),
        array(answers.values().map(|answer| answer.document)),
        source,
    );
    let updated: Vec<i64> = ANSWER.run(connection, arguments, |rows| {
        let written = rows.iter().map(|(asn, country, registry, name, _)| (asn, country, registry, name));
        spans.record(Operation::Update, written, |_| source);
        rows.iter().filter(|(.., was_there)| *was_there == Some(true)).filter_map(|(asn, ..)| asn).collect()
    });
    telemetry::networks_updated(Source::named(source), Update::Metadata, &updated);
    work.end(Operation::Update, answers.len(), updated.len());
}
