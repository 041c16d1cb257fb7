//! What providers said of whole blocks.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::Lifetimes;
use pgrx::pg_sys;

use crate::pg::array::{self, Element};
use crate::pg::spi::{Connection, Statement};
use crate::pg::{inet, text};
use crate::provider::Provider;
use crate::store::networks::Said;
use crate::store::queue;

/// Addresses written by one transaction: well below a second of work.
pub const MOST_AT_ONCE: usize = 5_000;

thread_local! {
    static KEEP: Statement = const { Statement::new(
        "answers_keep", include_str!("../../sql/queries/queue/answers_keep.sql"),
        &[pg_sys::TEXTOID, pg_sys::CIDRARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID,
          pg_sys::TEXTARRAYOID, pg_sys::JSONBARRAYOID, pg_sys::BOOLARRAYOID, pg_sys::TIMESTAMPTZOID]) };
    static WAITED_FOR: Statement = const { Statement::new(
        "answers_waited_for", include_str!("../../sql/queries/queue/answers_waited_for.sql"),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::INETOID,
          pg_sys::INT8OID]) };
    static FORGET: Statement = const { Statement::new(
        "answers_forget", include_str!("../../sql/queries/queue/answers_forget.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::INT4OID]) };
}

/// An answer and the block that it holds for.
pub struct Kept {
    pub prefix: Prefix,
    /// The network that announces the block, and what was said of that.
    pub asn: Option<i64>,
    pub network: Said,
    pub is_absent: bool,
    /// What it means for an address: parts of its enrichment.
    pub document: pg_sys::Datum,
}

/// An address that waited, with its answer. The document is valid inside the closure that it is handed to.
pub struct Waiting {
    pub address: Address,
    pub lookup_key: Prefix,
    pub asn: Option<i64>,
    pub network: Said,
    pub is_absent: bool,
    /// None where the inventory has it already.
    pub document: Option<pg_sys::Datum>,
}

/// Keeps answers, over earlier ones for the same blocks. Each block once; `asked_at` in microseconds since 2000.
pub fn keep(connection: &Connection, provider: Provider, answers: &[Kept], asked_at: i64) {
    if answers.is_empty() {
        return;
    }
    let texts = |field: fn(&Said) -> &Option<String>| {
        let values = answers.iter().map(|a| field(&a.network).as_deref().map(text::write));
        Some(array::write(Element::Text, values))
    };
    let arguments = [
        Some(text::write(provider.name())),
        Some(array::write(Element::Cidr, answers.iter().map(|a| Some(inet::write_prefix(a.prefix))))),
        Some(array::write(Element::Bigint, answers.iter().map(|a| a.asn.map(pg_sys::Datum::from)))),
        texts(|said| &said.name),
        texts(|said| &said.country),
        texts(|said| &said.registry),
        Some(array::write(Element::Jsonb, answers.iter().map(|a| Some(a.document)))),
        Some(array::write(Element::Boolean, answers.iter().map(|a| Some(pg_sys::Datum::from(a.is_absent))))),
        Some(pg_sys::Datum::from(asked_at)),
    ];
    KEEP.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Hands over the addresses that wait for these lookups and are answered, in key order, from behind `after` on, at
/// most [`MOST_AT_ONCE`].
pub fn waited_for<T>(
    connection: &Connection,
    provider: Provider,
    lookup_keys: &[Prefix],
    after: Option<Address>,
    read: impl FnOnce(&[Waiting]) -> T,
) -> T {
    let lifetimes = provider.lifetimes();
    let arguments = [
        Some(text::write(provider.name())),
        queue::write_keys(lookup_keys),
        Some(pg_sys::Datum::from(lifetimes.value)),
        Some(pg_sys::Datum::from(lifetimes.absent)),
        after.map(inet::write),
        Some(pg_sys::Datum::from(MOST_AT_ONCE as i64)),
    ];
    WAITED_FOR.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let waiting: Vec<Waiting> = (0..rows.count)
                .filter_map(|row| {
                    Some(Waiting {
                        address: rows.address(row, 1)?,
                        lookup_key: queue::read_key(rows, row, 2)?,
                        asn: rows.bigint(row, 3),
                        network: Said {
                            name: rows.text(row, 4),
                            country: rows.text(row, 5),
                            registry: rows.text(row, 6),
                            ..Said::default()
                        },
                        document: Some(rows.jsonb_datum(row, 7)?),
                        is_absent: rows.boolean(row, 8).unwrap_or_default(),
                    })
                })
                .collect();
            read(&waiting)
        })
    })
}

/// Drops answers that are past every lifetime.
pub fn forget_stale(connection: &Connection, provider: Provider) {
    let Lifetimes { value, absent } = provider.lifetimes();
    let arguments = [
        Some(text::write(provider.name())),
        Some(pg_sys::Datum::from(value)),
        Some(pg_sys::Datum::from(absent)),
    ];
    FORGET.with(|statement| connection.run(statement, &arguments, |_| ()));
}
