//! Runs the cascade of sources for a set of addresses and writes the results into the inventories.
//!
//! Networks are written before addresses. The rows of each kind are written in key order and in one pass. So all rows are
//! locked in order. Each pass processes its addresses in chunks, which limits the memory.

use std::collections::BTreeMap;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use super::addresses::Inventory;
use super::networks::{self, NetworkFacts, Networks};
use crate::document::answer::Meta;
use crate::document::answer_cache;
use crate::document::enrichment::{self, LAYOUT_VERSION, country_text};
use crate::mmdb::Databases;
use crate::pg::mvcc_snapshot::View;
use crate::pg::row::Row;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Inet, Jsonb, Text, Timestamptz, ToSql, Typed, array};
use crate::pg::{check_for_interrupts, memory};
use crate::provider::{Provider, Providers};
use crate::store::inbox_duplicates;
use crate::store::queue;
use crate::telemetry::{self, Counter};
use crate::worker::registry;

/// A change of the session count of one address. It also contains the times of the first and the last of these sessions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SessionCount {
    pub sessions: i64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
}

impl SessionCount {
    /// Returns a count for deleted sessions. Its number of sessions is negative. It has no times at which the address was seen.
    pub fn gone(sessions: i64) -> SessionCount {
        SessionCount { sessions: -sessions, ..SessionCount::default() }
    }

    /// Returns this count, but with 0 if the number of sessions is negative. A new address is created with the result.
    pub fn arrived(self) -> SessionCount {
        SessionCount { sessions: self.sessions.max(0), ..self }
    }

    pub fn add(&mut self, other: SessionCount) {
        self.sessions += other.sessions;
        self.first_seen = [self.first_seen, other.first_seen].into_iter().flatten().min();
        self.last_seen = [self.last_seen, other.last_seen].into_iter().flatten().max();
    }
}

/// The work for a set of addresses. The addresses are in key order, because rows are locked in key order.
#[derive(Default)]
pub struct Plan {
    /// Addresses without a row, with the counts of their sessions.
    pub missing: BTreeMap<Address, SessionCount>,
    /// Addresses whose row must be renewed from the mmdb files. The reason is that newer files are loaded, or that the caller
    /// forces the renewal.
    pub due: Vec<Address>,
    /// Number of addresses whose row is up to date.
    pub fresh: i64,
    /// Lookups that are queued. Each has an address, and the provider that is asked about this address.
    pub ask: Vec<(Address, Provider)>,
    /// Lookups for the addresses in `due`. They are queued after the rows of these addresses were renewed. If the mmdb files
    /// now have the network of an address, no lookup at a network provider is queued for this address.
    pub ask_if_renewed: Vec<(Address, Provider)>,
    pub lookups: Lookups,
}

/// Selects the lookups that [`write`] queues.
#[derive(Clone, Copy, Default)]
pub enum Lookups {
    /// Queues the lookups in [`Plan::ask`]. Also queues the lookups that the created and the renewed addresses need.
    #[default]
    OfWritten,
    /// Queues only the lookups in [`Plan::ask`]. Marks the `skipped` providers as skipped in the documents of new
    /// addresses.
    Planned { skipped: Providers },
}

/// How a statement treats rows that another transaction has locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LockPolicy {
    Wait,
    /// Leave existing networks unchanged, and skip addresses that another transaction has locked.
    Skip,
}

/// Number of addresses that one statement processes. The documents of this number of addresses fit into the default work_mem of
/// 4 MB, so PostgreSQL writes no temporary files.
const CHUNK: usize = 2_000;

type Inets = Array<Inet>;
type Bigints = Array<Bigint>;
type Documents = Array<Jsonb>;
type Times = Array<Timestamptz>;
/// A statement that updates addresses. It returns the changed addresses, each with its network and document.
type Update = Statement<(Inets, Bigints, Documents, Text, Text), (Inet, Bigint, Jsonb)>;

thread_local! {
    static CREATE_BARE: Statement<(Array<Inet>, Array<Jsonb>, Text), (Inet,)> = const { Statement::new(
        "addresses_create_bare", include_str!("../../sql/queries/inventory/addresses_create_bare.sql")) };
    static CREATE: Statement<(Inets, Bigints, Documents, Bigints, Times, Times, Text), (Inet, Bigint)> = const {
        Statement::new("addresses_create", include_str!("../../sql/queries/inventory/addresses_create.sql"))
    };
    static UPDATE: Update = const { Statement::new(
        "addresses_update", include_str!("../../sql/queries/inventory/addresses_update.sql")) };
    static UPDATE_FREE: Update = const {
        Statement::new("addresses_update_free", include_str!("../../sql/queries/inventory/addresses_update.sql"))
            .skipping_locked()
    };
    static LOCK: Statement<(Inets,)> = const { Statement::new(
        "addresses_lock", include_str!("../../sql/queries/inventory/addresses_lock.sql")) };
}

/// Locks the rows of existing addresses for the next statement. The addresses are in key order.
pub(super) fn lock_addresses(connection: &Connection, addresses: &[Address]) {
    LOCK.execute(connection, (array(addresses),));
}

/// Returns the networks that the mmdb files have for the addresses of a plan.
pub fn networks_of(plan: &Plan, databases: &Databases) -> Networks {
    let mut networks = Networks::new();
    let due = plan.due.iter().map(|address| (*address, SessionCount::default()));
    for (address, session_count) in plan.missing.iter().map(|(a, t)| (*a, *t)).chain(due) {
        check_for_interrupts();
        let answer = answer_cache::of(address, databases);
        let Some(asn) = answer.asn else { continue };
        let network = networks.entry(asn).or_default();
        // Most addresses belong to a network whose values another address has already set.
        if network.name.is_none() {
            network.name.clone_from(&answer.organization);
        }
        if network.country.is_none() {
            network.country = answer.country.map(country_text);
        }
        network.merge(NetworkFacts {
            first_seen: session_count.first_seen,
            last_seen: session_count.last_seen,
            ..NetworkFacts::default()
        });
    }
    networks
}

/// Writes a plan. Returns those missing addresses that this transaction created. Their rows already contain the counts of their
/// sessions.
pub fn write(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    plan: &Plan,
    policy: LockPolicy,
) -> Vec<Address> {
    let networks = networks_of(plan, databases);
    networks::create(connection, &networks, "maxmind");
    if policy == LockPolicy::Wait {
        networks::refine(connection, &networks, "maxmind");
    }
    let (online, skipped) = match plan.lookups {
        Lookups::OfWritten => (Providers::enabled(), Providers::NONE),
        Lookups::Planned { skipped } => (Providers::NONE, skipped),
    };
    let created = create_with(oids, connection, databases, &plan.missing, online, skipped);
    update_addresses(oids, connection, databases, &plan.due, policy, online);
    request(oids, plan.ask.iter().copied());
    created
}

/// Renews existing addresses from the mmdb files. Does not ask providers. The addresses are in key order.
pub fn renew(oids: ExtensionOids, connection: &Connection, databases: &Databases, due: Vec<Address>) {
    let plan = Plan { due, ..Plan::default() };
    let networks = networks_of(&plan, databases);
    networks::create(connection, &networks, "maxmind");
    networks::refine(connection, &networks, "maxmind");
    update_addresses(oids, connection, databases, &plan.due, LockPolicy::Wait, Providers::NONE);
}

/// Queues lookups. Leaves out a lookup if the same lookup already waits for a worker. Wakes the worker at commit.
pub fn request(oids: ExtensionOids, lookups: impl IntoIterator<Item = (Address, Provider)>) {
    let table = queue::request_table(oids).to_u32();
    let is_needed = |(address, provider): &(Address, Provider)| {
        inbox_duplicates::needs((table, address, provider.index()))
    };
    let mut lookups = lookups.into_iter().filter(is_needed).peekable();
    if lookups.peek().is_some() {
        registry::work_was_queued();
        queue::append_all(oids, lookups);
    }
}

/// Returns the lookups that new addresses need. Each lookup has an address, and one of the providers in `online` to ask about
/// this address. Each new address in `addresses` has its network, or `None` if the network is unknown.
pub fn lookups_of_new(
    addresses: impl Iterator<Item = (Address, Option<i64>)>,
    online: Providers,
) -> impl Iterator<Item = (Address, Provider)> {
    addresses.flat_map(move |(address, asn)| wanted(address, asn, online))
}

/// Returns those providers of `online` that should be asked about a new address. A network provider is asked only if the mmdb
/// files have no network for the address.
fn wanted(
    address: Address,
    asn: Option<i64>,
    online: Providers,
) -> impl Iterator<Item = (Address, Provider)> {
    let is_lacking = move |provider: &Provider| asn.is_none() || provider.purpose() != Purpose::Network;
    able(address, Providers::of(online.iter().filter(is_lacking)))
}

/// Creates rows for the missing addresses. The networks of these addresses must exist. Queues lookups of the new addresses at
/// the providers in `online`.
pub fn create_addresses(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    missing: &BTreeMap<Address, SessionCount>,
    online: Providers,
) -> Vec<Address> {
    create_with(oids, connection, databases, missing, online, Providers::NONE)
}

/// Like [`create_addresses`], but also marks the providers in `skipped` as skipped in the documents of the addresses. These
/// providers are not asked.
fn create_with(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    missing: &BTreeMap<Address, SessionCount>,
    online: Providers,
    skipped: Providers,
) -> Vec<Address> {
    let all: Vec<(Address, SessionCount)> =
        missing.iter().map(|(address, session_count)| (*address, *session_count)).collect();
    let mut created = Vec::with_capacity(all.len());
    for chunk in all.chunks(CHUNK) {
        memory::scratch(|| {
            let addresses: Vec<Address> = chunk.iter().map(|(address, _)| *address).collect();
            let (asns, documents) = answers(databases, &addresses, skipped);
            let session_counts = || chunk.iter().map(|(_, session_count)| session_count);
            let arguments = (
                array(&addresses),
                array(asns),
                array(documents),
                array(session_counts().map(|session_count| session_count.sessions)),
                array(session_counts().map(|session_count| session_count.first_seen)),
                array(session_counts().map(|session_count| session_count.last_seen)),
                LAYOUT_VERSION,
            );
            CREATE.run(connection, arguments, |rows| {
                let new = || rows.iter().filter_map(|(address, asn)| Some((address?, asn)));
                created.extend(new().map(|(address, _)| address));
                request(oids, lookups_of_new(new(), online));
            });
        });
    }
    created
}

/// Creates rows for addresses. The rows contain no data except the address. The caller passes the addresses in key order.
/// Returns the addresses for which a row was created.
pub fn create_bare(connection: &Connection, addresses: &[Address]) -> Vec<Address> {
    let (_, documents) = answers(&Databases::default(), addresses, Providers::NONE);
    CREATE_BARE.run(connection, (array(addresses), array(documents), LAYOUT_VERSION), |rows| {
        rows.iter().filter_map(|(address,)| address).collect()
    })
}

/// Renews the rows of the addresses in `due` from the mmdb files. Queues lookups at the providers in `online`.
pub fn update_addresses(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    due: &[Address],
    policy: LockPolicy,
    online: Providers,
) {
    for chunk in due.chunks(CHUNK) {
        memory::scratch(|| {
            let (asns, documents) = answers(databases, chunk, Providers::NONE);
            let statement = match policy {
                LockPolicy::Wait => {
                    lock_addresses(connection, chunk);
                    &UPDATE
                }
                LockPolicy::Skip => &UPDATE_FREE,
            };
            let arguments = (array(chunk), array(asns), array(documents), LAYOUT_VERSION, "maxmind");
            statement.run(connection, arguments, |rows| {
                let updated = rows.iter().filter_map(|(address, asn, document)| {
                    Some((address?, enrichment::due(document?, asn, online)))
                });
                request(oids, updated.flat_map(|(address, due)| able(address, due)));
            });
        });
    }
}

/// Returns lookups of the address, one at each provider of `some` that can be asked about this address.
pub fn able(address: Address, some: Providers) -> impl Iterator<Item = (Address, Provider)> {
    some.iter().filter(move |provider| provider.takes(address)).map(move |provider| (address, provider))
}

/// Writes a provider's answers about existing addresses. Each answer has a network and a document. The addresses are in key
/// order.
pub fn write_answers(
    connection: &Connection,
    source: &str,
    answers: &[(Address, Option<i64>, Typed<Jsonb>)],
) {
    if answers.is_empty() {
        return;
    }
    let addresses: Vec<Address> = answers.iter().map(|(address, ..)| *address).collect();
    let asns = array(answers.iter().map(|(_, asn, _)| *asn));
    let documents = array(answers.iter().map(|(.., document)| *document));
    lock_addresses(connection, &addresses);
    UPDATE.execute(connection, (array(&addresses), asns, documents, LAYOUT_VERSION, source));
}

/// Returns the networks and the documents of some addresses according to the mmdb files. If a provider in `skipped` can be
/// asked about an address, marks this provider as skipped in the address's document.
fn answers(
    databases: &Databases,
    addresses: &[Address],
    skipped: Providers,
) -> (Vec<Option<i64>>, Vec<Typed<Jsonb>>) {
    let (mut asns, mut documents) =
        (Vec::with_capacity(addresses.len()), Vec::with_capacity(addresses.len()));
    let mut hits = 0;
    for address in addresses {
        let answer = answer_cache::of(*address, databases);
        hits += i64::from(answer.is_hit);
        asns.push(answer.asn);
        let skipped = Providers::of(wanted(*address, answer.asn, skipped).map(|(_, provider)| provider));
        documents.push(answer.document(*address, databases, Meta::Written { skipped }).as_deref().to_sql());
    }
    telemetry::add(Counter::MaxmindHits, hits);
    (asns, documents)
}

/// Makes the plan for some addresses, which must be in key order. Reads the row of each address in the inventory. The row
/// decides what the plan contains:
/// - If there is no row, the address is added to `missing`.
/// - If the row must be renewed, or `force` is true, the address is added to `due`, and its lookups to `ask_if_renewed`.
/// - If the row is up to date, the address is counted in `fresh`, and its lookups are added to `ask`.
///
/// A lookup is added for each provider in `online` that should be asked about the address. Reading in key order is fast,
/// because the next key is usually on the index page that was read last.
pub fn plan(
    oids: ExtensionOids,
    addresses: impl IntoIterator<Item = (Address, SessionCount)>,
    databases: &Databases,
    view: View<'_>,
    force: bool,
    online: Providers,
) -> Plan {
    let mut plan = Plan::default();
    let mut inventory = Inventory::open(oids, view);
    for (address, session_count) in addresses {
        check_for_interrupts();
        let is_due = |row: &Row| force || super::addresses::is_due(row, databases);
        let read = |row: &Row| (is_due(row), super::addresses::due_providers(row, online));
        match inventory.probe(address, read) {
            None => {
                plan.missing.insert(address, session_count);
            }
            Some((true, ask)) => {
                plan.due.push(address);
                plan.ask_if_renewed.extend(able(address, ask));
            }
            Some((false, ask)) => {
                plan.fresh += 1;
                plan.ask.extend(able(address, ask));
            }
        }
    }
    plan
}
