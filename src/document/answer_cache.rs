//! Answers of the mmdb files, cached until the transaction ends.
//!
//! Many addresses have the same records in the mmdb files. The cache has one answer for each combination of records. So a record
//! is decoded once, and a document is built once, although the trigger, the commit and the fold look up the same addresses, and
//! although neighbouring addresses have the same records. Documents contain the time of the transaction, so an answer is never
//! used in a later transaction.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::clean_name;
use cowrie_enrich_engine::timestamp::Timestamp;
use foldhash::fast::RandomState;

use super::answer::{Answer, Meta};
use crate::mmdb::Databases;
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{clock, memory};

/// The data that the mmdb files contain about an address. Addresses with the same records share one answer.
pub struct CachedAnswer {
    pub asn: Option<i64>,
    /// Name of the organisation that runs the network, in the form in which it is stored.
    pub organization: Option<String>,
    pub country: Option<[u8; 2]>,
    /// True if an mmdb file has data about the address.
    pub is_hit: bool,
    pub is_bogon: bool,
    documents: RefCell<Vec<(Meta, Rc<OwnedVarlena>)>>,
}

/// What determines the answer about an address.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The address is a bogon for this reason.
    Bogon(&'static str),
    /// The records of the address; see [`Databases::records`].
    Records(Vec<u64>),
}

#[derive(Default)]
struct Cache {
    /// The start of the transaction and the version of the maps for which the answers are valid.
    as_of: Option<(Timestamp, u64)>,
    answers: HashMap<Key, Rc<CachedAnswer>, RandomState>,
    /// Number of bytes that the documents use.
    bytes: usize,
}

/// Maximum number of bytes of cached documents. If a transaction needs more, the cache is cleared.
const MOST_BYTES: usize = 32 << 20;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Returns the answer about an address.
pub fn of(address: Address, databases: &Databases) -> Rc<CachedAnswer> {
    let key = match bogon::reason(address) {
        Some(reason) => Key::Bogon(reason),
        None => match databases.records(address) {
            Some(records) => Key::Records(records),
            // The lookup of the answer logs the error.
            None => return Rc::new(CachedAnswer::look_up(address, databases)),
        },
    };
    let now = Some((clock::transaction_start(), databases.version()));
    let known = CACHE.with_borrow_mut(|cache| {
        if cache.as_of != now || cache.bytes > MOST_BYTES {
            *cache = Cache { as_of: now, ..Cache::default() };
        }
        cache.answers.get(&key).cloned()
    });
    known.unwrap_or_else(|| {
        let answer = Rc::new(CachedAnswer::look_up(address, databases));
        CACHE.with_borrow_mut(|cache| {
            cache.bytes += size_of::<(Key, CachedAnswer)>();
            cache.answers.insert(key, Rc::clone(&answer));
        });
        answer
    })
}

/// Frees the memory of the cache. Called at the end of a transaction.
pub fn transaction_ended() {
    CACHE.with_borrow_mut(|cache| {
        if cache.as_of.is_some() {
            *cache = Cache::default();
        }
    });
}

impl CachedAnswer {
    fn look_up(address: Address, databases: &Databases) -> CachedAnswer {
        let answer = Answer::for_address(address, databases);
        CachedAnswer {
            asn: answer.asn(),
            organization: answer.organization().map(|name| clean_name(name).into_owned()),
            country: answer.country(),
            is_hit: answer.is_hit(),
            is_bogon: answer.bogon.is_some(),
            documents: RefCell::default(),
        }
    }

    /// Returns the document about an address. The address and the maps must be those for which [`of`] returned this answer.
    pub fn document(&self, address: Address, databases: &Databases, meta: Meta) -> Option<Rc<OwnedVarlena>> {
        if let Some((_, known)) = self.documents.borrow().iter().find(|(of, _)| *of == meta) {
            return Some(Rc::clone(known));
        }
        let build = || Answer::for_address(address, databases).document(databases, meta).into_owned();
        let document = Rc::new(memory::scratch(build)?);
        CACHE.with_borrow_mut(|cache| cache.bytes += document.size());
        self.documents.borrow_mut().push((meta, Rc::clone(&document)));
        Some(document)
    }
}
