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

/// The keys of a batch.
struct Batch<K> {
    last: Option<K>,
    /// Keys of the rows that mention an address.
    mentioning: Vec<K>,
}

/// Returns a document in the binary form of the server. A document that the server rejects becomes an empty object.
pub fn parsed(document: &str) -> Option<Rc<OwnedVarlena>> {
    let parsed = jsonb::parse(&text::to_server(document)).unwrap_or_else(jsonb::empty);
    parsed.into_owned().map(Rc::new)
}

/// Removes mentions from the documents of addresses, beginning after the address `after`. Leaves out the documents of the erased
/// addresses themselves.
pub fn of_addresses(connection: &Connection, wanted: &Wanted, after: Option<Address>) -> Cleaned<Address> {
    let batch = ADDRESSES.run(connection, (after, DOCUMENTS), |rows| {
        let rows = rows.iter().filter_map(|(address, document)| address.zip(document));
        batch(rows, |address, document| !wanted.contains(*address) && is_mentioned(wanted, document))
    });
    let documents = clean(&batch.mentioning, |keys| {
        let locked = LOCK_ADDRESSES.run(connection, (array(keys.iter().copied()),), |rows| {
            cleaned(wanted, rows.iter().filter_map(|(address, document)| address.zip(document)))
        });
        let (keys, documents) = unzipped(locked);
        WRITE_ADDRESSES.execute(
            connection,
            (array(keys.iter().copied()), array(documents.iter().map(|document| &**document))),
        );
        keys.len()
    });
    Cleaned { documents, last: batch.last }
}

/// Removes mentions from the documents and the names of networks, beginning after the ASN `after`.
pub fn of_networks(connection: &Connection, wanted: &Wanted, after: Option<i64>) -> Cleaned<i64> {
    let batch = NETWORKS.run(connection, (after, DOCUMENTS), |rows| {
        let rows = rows.iter().filter_map(|(asn, document)| asn.zip(document));
        batch(rows, |_, document| is_mentioned(wanted, document))
    });
    let documents = clean(&batch.mentioning, |keys| {
        let locked = LOCK_NETWORKS.run(connection, (array(keys.iter().copied()),), |rows| {
            cleaned(wanted, rows.iter().filter_map(|(asn, document)| asn.zip(document)))
        });
        let (keys, documents) = unzipped(locked);
        WRITE_NETWORKS.execute(
            connection,
            (array(keys.iter().copied()), array(documents.iter().map(|document| &**document))),
        );
        keys.len()
    });
    Cleaned { documents, last: batch.last }
}

/// Provider and prefix of an answer about a block.
pub type AnswerKey = (String, String);

/// Deletes answers about blocks that mention one of the addresses, beginning after the key `after`.
pub fn of_blocks(connection: &Connection, wanted: &Wanted, after: Option<AnswerKey>) -> Cleaned<AnswerKey> {
    let (provider, prefix) = after.unzip();
    let arguments = (provider.as_deref().unwrap_or_default(), prefix.as_deref(), DOCUMENTS);
    let batch = ANSWERS.run(connection, arguments, |rows| {
        let rows = rows.iter().filter_map(|(provider, prefix, texts)| {
            Some(((provider?.to_string(), prefix?.to_string()), texts.unwrap_or_default().to_string()))
        });
        batch(rows, |_, texts| wanted.is_mentioned_in(texts))
    });
    let documents = clean(&batch.mentioning, |keys| {
        let providers = keys.iter().map(|(provider, _)| provider.as_str());
        let prefixes = keys.iter().map(|(_, prefix)| prefix.as_str());
        DELETE_ANSWERS.execute(connection, (array(providers), array(prefixes)));
        keys.len()
    });
    Cleaned { documents, last: batch.last }
}

fn batch<K: Clone, D>(rows: impl Iterator<Item = (K, D)>, mentions: impl Fn(&K, &D) -> bool) -> Batch<K> {
    let mut batch = Batch { last: None, mentioning: Vec::new() };
    for (key, document) in rows {
        if mentions(&key, &document) {
            batch.mentioning.push(key.clone());
        }
        batch.last = Some(key);
    }
    batch
}

fn is_mentioned(wanted: &Wanted, document: &Container<'_>) -> bool {
    wanted.is_mentioned_in_json(&document.json())
}

fn clean<K>(mentioning: &[K], write: impl FnOnce(&[K]) -> usize) -> i64 {
    if mentioning.is_empty() { 0 } else { write(mentioning) as i64 }
}

/// Returns the texts of the documents that still mention an address, without the mentions. Another transaction may have changed a
/// document before its row was locked.
fn cleaned<'a, K>(wanted: &Wanted, rows: impl Iterator<Item = (K, Container<'a>)>) -> Vec<(K, String)> {
    rows.filter_map(|(key, document)| Some((key, wanted.removed_from(&document.json())?))).collect()
}

/// Separates the keys from the documents, and parses the documents.
fn unzipped<K>(cleaned: Vec<(K, String)>) -> (Vec<K>, Vec<Rc<OwnedVarlena>>) {
    cleaned.into_iter().filter_map(|(key, document)| Some((key, parsed(&document)?))).unzip()
}
