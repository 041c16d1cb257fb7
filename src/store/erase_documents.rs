//! Removes mentions of erased addresses from documents about other addresses, networks, blocks and sessions.
//!
//! All documents are read once for each call of a procedure, in batches. This is the only way to find a mention, because a document
//! can mention an address in many forms. If an answer that mentions the address is stored after its row was read, the mention stays.

use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mention::Wanted;

use crate::pg::jsonb::{self, Container};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::text;
use crate::pg::value::{Array, Bigint, Inet, Jsonb, Text, array};
use crate::pg::varlena::OwnedVarlena;

/// Number of documents that one transaction reads.
const DOCUMENTS: i64 = 500;

thread_local! {
    static ADDRESSES: Statement<(Inet, Bigint), (Inet, Jsonb)> = const { Statement::new(
        "documents_of_addresses", include_str!("../../sql/queries/erase/documents_of_addresses.sql")) };
    static LOCK_ADDRESSES: Statement<(Array<Inet>,), (Inet, Jsonb)> = const { Statement::new(
        "documents_of_addresses_lock", include_str!("../../sql/queries/erase/documents_of_addresses_lock.sql")) };
    static WRITE_ADDRESSES: Statement<(Array<Inet>, Array<Jsonb>)> = const { Statement::new(
        "documents_of_addresses_write", include_str!("../../sql/queries/erase/documents_of_addresses_write.sql")) };
    static NETWORKS: Statement<(Bigint, Bigint), (Bigint, Jsonb)> = const { Statement::new(
        "documents_of_networks", include_str!("../../sql/queries/erase/documents_of_networks.sql")) };
    static LOCK_NETWORKS: Statement<(Array<Bigint>,), (Bigint, Jsonb)> = const { Statement::new(
        "documents_of_networks_lock", include_str!("../../sql/queries/erase/documents_of_networks_lock.sql")) };
    static WRITE_NETWORKS: Statement<(Array<Bigint>, Array<Jsonb>)> = const { Statement::new(
        "documents_of_networks_write", include_str!("../../sql/queries/erase/documents_of_networks_write.sql")) };
    static ANSWERS: Statement<(Text, Text, Bigint), (Text, Text, Text)> = const { Statement::new(
        "answers_read", include_str!("../../sql/queries/erase/answers_read.sql")) };
    static DELETE_ANSWERS: Statement<(Array<Text>, Array<Text>)> = const { Statement::new(
        "answers_delete", include_str!("../../sql/queries/erase/answers_delete.sql")) };
}

/// The result of reading a batch of documents.
pub struct Cleaned<K> {
    /// Number of documents that mentioned an address.
    pub documents: i64,
    /// The last key of the batch. `None` if all documents were read.
    pub last: Option<K>,
}

/// Returns a document in the binary form of the server. A document that the server rejects becomes an empty object.
pub fn parsed(document: &str) -> Option<Rc<OwnedVarlena>> {
    let parsed = jsonb::parse(&text::to_server(document)).unwrap_or_else(jsonb::empty);
    parsed.into_owned().map(Rc::new)
}

/// Removes mentions from the documents of addresses, beginning after the address `after`. Leaves out the documents of the erased
/// addresses themselves.
pub fn of_addresses(connection: &Connection, wanted: &Wanted, after: Option<Address>) -> Cleaned<Address> {
    let statements = Statements {
        read: |each: Each<Address>| {
            ADDRESSES.run(connection, (after, DOCUMENTS), |rows| rows.iter().for_each(each));
        },
        lock: |keys: &[Address], each: Each<Address>| {
            LOCK_ADDRESSES.run(connection, (array(keys),), |rows| rows.iter().for_each(each));
        },
        write: |keys: &[Address], documents: &[Rc<OwnedVarlena>]| {
            let documents = array(documents.iter().map(|document| &**document));
            WRITE_ADDRESSES.execute(connection, (array(keys), documents));
        },
    };
    of_table(wanted, |address| !wanted.contains(*address), statements)
}

/// Removes mentions from the documents and the names of networks, beginning after the ASN `after`.
pub fn of_networks(connection: &Connection, wanted: &Wanted, after: Option<i64>) -> Cleaned<i64> {
    let statements = Statements {
        read: |each: Each<i64>| {
            NETWORKS.run(connection, (after, DOCUMENTS), |rows| rows.iter().for_each(each));
        },
        lock: |keys: &[i64], each: Each<i64>| {
            LOCK_NETWORKS.run(connection, (array(keys.iter().copied()),), |rows| rows.iter().for_each(each));
        },
        write: |keys: &[i64], documents: &[Rc<OwnedVarlena>]| {
            let documents = array(documents.iter().map(|document| &**document));
            WRITE_NETWORKS.execute(connection, (array(keys.iter().copied()), documents));
        },
    };
    of_table(wanted, |_| true, statements)
}

/// Takes a row with its key and its document.
type Each<'a, K> = &'a mut dyn FnMut((Option<K>, Option<Container<'_>>));

/// The statements on a table of the extension that has documents.
struct Statements<Read, Lock, Write> {
    /// Reads a batch of rows.
    read: Read,
    /// Locks the rows with these keys, and reads them again.
    lock: Lock,
    /// Writes the documents of locked rows.
    write: Write,
}

/// Removes mentions from a batch of documents of a table. `is_searched` returns false for the keys of documents that are left out.
fn of_table<K: Copy>(
    wanted: &Wanted,
    is_searched: impl Fn(&K) -> bool,
    statements: Statements<
        impl FnOnce(Each<K>),
        impl FnOnce(&[K], Each<K>),
        impl FnOnce(&[K], &[Rc<OwnedVarlena>]),
    >,
) -> Cleaned<K> {
    let (mut last, mut mentioning) = (None, Vec::new());
    (statements.read)(&mut |(key, document)| {
        let Some((key, document)) = key.zip(document) else { return };
        last = Some(key);
        if is_searched(&key) && wanted.is_mentioned_in_json(&document.json()) {
            mentioning.push(key);
        }
    });
    if mentioning.is_empty() {
        return Cleaned { documents: 0, last };
    }
    // Another transaction may have changed a document before its row was locked.
    let mut locked = Vec::new();
    (statements.lock)(&mentioning, &mut |(key, document)| {
        let document = document.and_then(|document| wanted.removed_from(&document.json()));
        locked.extend(key.zip(document));
    });
    let parsed = |(key, document): (K, String)| Some((key, parsed(&document)?));
    let (keys, documents): (Vec<K>, Vec<Rc<OwnedVarlena>>) = locked.into_iter().filter_map(parsed).unzip();
    (statements.write)(&keys, &documents);
    Cleaned { documents: keys.len() as i64, last }
}

/// Provider and prefix of an answer about a block.
pub type AnswerKey = (String, String);

/// Deletes answers about blocks that mention one of the addresses, beginning after the key `after`.
pub fn of_blocks(connection: &Connection, wanted: &Wanted, after: Option<AnswerKey>) -> Cleaned<AnswerKey> {
    let (provider, prefix) = after.unzip();
    let arguments = (provider.as_deref().unwrap_or_default(), prefix.as_deref(), DOCUMENTS);
    let (mut last, mut mentioning) = (None, Vec::new());
    ANSWERS.run(connection, arguments, |rows| {
        for (provider, prefix, texts) in rows.iter() {
            let Some((provider, prefix)) = provider.zip(prefix) else { continue };
            let key = (provider.to_string(), prefix.to_string());
            if texts.is_some_and(|texts| wanted.is_mentioned_in(&texts)) {
                mentioning.push(key.clone());
            }
            last = Some(key);
        }
    });
    if !mentioning.is_empty() {
        let providers = mentioning.iter().map(|(provider, _)| provider.as_str());
        let prefixes = mentioning.iter().map(|(_, prefix)| prefix.as_str());
        DELETE_ANSWERS.execute(connection, (array(providers), array(prefixes)));
    }
    Cleaned { documents: mentioning.len() as i64, last }
}
