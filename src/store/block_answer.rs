//! Providers' answers about whole blocks.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::network_kind::NetworkKind;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::Lifetimes;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{
    Array, Bigint, Boolean, Cidr, Inet, Integer, Jsonb, Text, Timestamptz, ToSql, Typed, array,
};
use crate::provider::Provider;
use crate::store::networks::NetworkFacts;
use crate::store::queue;

/// Maximum number of addresses that one transaction writes. Writing this number of addresses takes much less than a second.
pub const MOST_AT_ONCE: usize = 5_000;

thread_local! {
    static KEEP: Statement<(
        Text, Array<Cidr>, Array<Bigint>, Array<Text>, Array<Text>, Array<Text>, Array<Jsonb>, Array<Boolean>, Timestamptz,
    )> = const { Statement::new(
        "answers_keep", include_str!("../../sql/queries/queue/answers_keep.sql")) };
    static WAITED_FOR: Statement<
        (Text, Array<Text>, Integer, Integer, Inet, Bigint),
        (Inet, Text, Bigint, Text, Text, Text, Jsonb, Boolean),
    > = const { Statement::new(
        "answers_waited_for", include_str!("../../sql/queries/queue/answers_waited_for.sql")) };
    static FORGET: Statement<(Text, Integer, Integer)> = const { Statement::new(
        "answers_forget", include_str!("../../sql/queries/queue/answers_forget.sql")) };
}

/// An answer about a block of addresses, together with this block.
pub struct Kept {
    pub prefix: Prefix,
    /// The ASN of the network that announces the block. `network` contains the values of this network.
    pub asn: Option<i64>,
    pub network: NetworkFacts,
    pub is_absent: bool,
    /// The parts that the answer writes into the document of each address in the block.
    pub document: Typed<Jsonb>,
}

/// An address that waited for an answer, together with the answer. `document` is valid only inside the closure that receives
/// this value.
pub struct Waiting {
    pub address: Address,
    pub lookup_key: LookupKey,
    pub asn: Option<i64>,
    pub network: NetworkFacts,
    pub is_absent: bool,
    /// `None` if the inventory already has the document.
    pub document: Option<Typed<Jsonb>>,
}

/// Stores answers about blocks. Replaces earlier answers for the same blocks. `answers` contains each block only once.
pub fn keep(connection: &Connection, provider: Provider, answers: &[Kept], asked_at: Timestamp) {
    if answers.is_empty() {
        return;
    }
    let texts = |field: fn(&NetworkFacts) -> &Option<String>| {
        array(answers.iter().map(move |answer| field(&answer.network).as_deref()))
    };
    let arguments = (
        provider.name(),
        array(answers.iter().map(|answer| answer.prefix)),
        array(answers.iter().map(|answer| answer.asn)),
        texts(|source_data| &source_data.name),
        texts(|source_data| &source_data.country),
        texts(|source_data| &source_data.registry),
        array(answers.iter().map(|answer| answer.document)),
        array(answers.iter().map(|answer| answer.is_absent)),
        asked_at,
    );
    KEEP.execute(connection, arguments);
}

/// Reads addresses that wait for the answers of these lookups. Passes the addresses and their answers to `read`. Reads the
/// addresses in key order, begins after `after`, and reads at most [`MOST_AT_ONCE`] addresses.
pub fn waited_for<T>(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[LookupKey],
    after: Option<Address>,
    read: impl FnOnce(&[Waiting]) -> T,
) -> T {
    let lifetimes = provider.lifetimes();
    let arguments = (
        provider.name(),
        queue::keys(lookup_keys),
        lifetimes.value,
        lifetimes.absent,
        after,
        MOST_AT_ONCE as i64,
    );
    WAITED_FOR.run(connection, arguments, |rows| {
        let waiting: Vec<Waiting> = rows
            .iter()
            .filter_map(|(address, key, asn, name, country, registry, document, is_absent)| {
                Some(Waiting {
                    address: address?,
                    lookup_key: LookupKey::parse(&key?)?,
                    asn,
                    network: NetworkFacts { name, country, registry, ..NetworkFacts::default() },
                    document: Some(document?.to_sql()),
                    is_absent: is_absent.unwrap_or_default(),
                })
            })
            .collect();
        read(&waiting)
    })
}

/// Deletes the answers that are older than the longest lifetime of an answer.
pub fn forget_stale(connection: &Connection, provider: Provider) {
    let Lifetimes { value, absent } = provider.lifetimes();
    let of_kinds = NetworkKind::ALL.map(|kind| provider.lifetimes_in(Some(kind)).value);
    let value = of_kinds.into_iter().fold(value, i32::max);
    FORGET.execute(connection, (provider.name(), value, absent));
}
