//! The values that the extension is writing into null snapshots.
//!
//! On a table that is not trusted, an UPDATE cannot set snapshot columns. The UPDATE that completes sessions
//! is like any other: it runs as the table's owner and fires the owner's triggers. So the extension registers
//! the values of each row before its statement, and the BEFORE trigger reads them here. Even if a trigger of
//! the owner sets other values, a null column gets the registered value or stays null.
//!
//! The register is in the memory of this process. It is emptied when the statement ends, with or without an
//! error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;

use crate::pg::row::TupleId;
use crate::pg::value::{Bigint, Jsonb, Text, Timestamptz, Value, value};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{Oid, clock, text};

/// Values for the null columns of a snapshot.
#[derive(Clone, Default)]
pub struct Values {
    pub asn: Option<i64>,
    pub country: Option<Rc<OwnedVarlena<Text>>>,
    pub ip_type: Option<Rc<OwnedVarlena<Text>>>,
    pub document: Option<Rc<OwnedVarlena>>,
}

impl Values {
    /// Returns the values in the order of the snapshot columns. They are written into the current memory
    /// context.
    pub fn values(&self) -> [Value; 5] {
        [
            value::<Bigint>(self.asn),
            value::<Text>(self.country.as_deref()),
            value::<Text>(self.ip_type.as_deref()),
            value::<Jsonb>(self.document.as_deref()),
            value::<Timestamptz>(clock::transaction_start()),
        ]
    }
}

/// Identifies a row of one table. Another row may get the same tuple id later. But one statement never stores two rows with the
/// same tuple id and the same address.
type Key = (TupleId, Address);

struct Statement {
    table: Oid,
    values: HashMap<Key, Values>,
    erases: Option<Erasure>,
}

/// A statement that erases addresses with their snapshots.
pub struct Erasure {
    /// The trigger appends no negative counts for this address, because the caller deletes the counts of the
    /// address.
    pub uncounted: Option<Address>,
}

thread_local! {
    /// The running statements, innermost last.
    static RUNNING: RefCell<Vec<Statement>> = RefCell::default();
}

/// Keeps values registered until the registration is dropped. An ERROR also drops the registration.
pub struct Registration {
    /// Number of statements that were running before the statement of this registration.
    depth: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| running.truncate(self.depth));
    }
}

/// Registers values for rows of a table, by their tuple ids and addresses.
#[must_use]
pub fn register(table: Oid, rows: impl Iterator<Item = (TupleId, Address, Values)>) -> Registration {
    let values = rows.map(|(tuple_id, address, values)| ((tuple_id, address), values)).collect();
    begin(Statement { table, values, erases: None })
}

/// Registers a statement that erases addresses of a table. The BEFORE trigger then empties the snapshot of each row
/// that loses its address.
#[must_use]
pub fn register_erasure(table: Oid, erasure: Erasure) -> Registration {
    begin(Statement { table, values: HashMap::new(), erases: Some(erasure) })
}

fn begin(statement: Statement) -> Registration {
    RUNNING.with_borrow_mut(|running| {
        running.push(statement);
        Registration { depth: running.len() - 1 }
    })
}

/// Returns true if the running statement erases addresses of a table.
pub fn is_erasing(table: Oid) -> bool {
    of_erasure(table, |_| true)
}

/// Returns true if the running statement erases this address, and the trigger must not append negative counts
/// for it.
pub fn is_uncounted(table: Oid, address: Address) -> bool {
    of_erasure(table, |erasure| erasure.uncounted == Some(address))
}

fn of_erasure(table: Oid, is_so: impl FnOnce(&Erasure) -> bool) -> bool {
    RUNNING.with_borrow(|running| {
        let statement = running.last().filter(|last| last.table == table);
        statement.and_then(|statement| statement.erases.as_ref()).is_some_and(is_so)
    })
}

/// Returns the values for a row, if the extension is filling this row now.
pub fn values_for(table: Oid, tuple_id: Option<TupleId>, address: Option<Address>) -> Option<Values> {
    RUNNING.with_borrow(|running| {
        let statement = running.last().filter(|statement| statement.table == table)?;
        statement.values.get(&(tuple_id?, address?)).cloned()
    })
}

/// Returns true unless the extension is filling rows.
pub fn is_empty() -> bool {
    RUNNING.with_borrow(Vec::is_empty)
}

/// Empties the register at the end of a transaction.
pub fn clear() {
    RUNNING.with_borrow_mut(Vec::clear);
}

/// Copies of texts and documents that many rows share. Each is copied once.
#[derive(Default)]
pub struct Copies<'a> {
    texts: HashMap<&'a str, Rc<OwnedVarlena<Text>>>,
    documents: HashMap<*const OwnedVarlena, Rc<OwnedVarlena>>,
}

impl<'a> Copies<'a> {
    pub fn text(&mut self, value: &'a str) -> Rc<OwnedVarlena<Text>> {
        Rc::clone(self.texts.entry(value).or_insert_with(|| Rc::new(text::owned(value))))
    }

    pub fn document(&mut self, document: &'a OwnedVarlena) -> Rc<OwnedVarlena> {
        Rc::clone(self.documents.entry(&raw const *document).or_insert_with(|| Rc::new(document.clone())))
    }
}
