//! Keeps the values that the extension is now writing into null snapshot columns.
//!
//! On a table that is not trusted, the UPDATE of a client cannot set snapshot columns. The extension also uses an UPDATE to
//! complete sessions. This UPDATE runs with the rights of the table's owner and fires the owner's triggers. So before this
//! UPDATE, the extension registers the values of each row, and the BEFORE trigger reads them here. If a trigger of the owner
//! sets other values, a null column still gets the registered value, or stays null.
//!
//! The register is in the memory of this process. The register is emptied when the statement ends, even if the statement fails.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;

use crate::pg::row::TupleId;
use crate::pg::value::{Bigint, Jsonb, Text, Timestamptz, Value, value};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{Oid, clock, text};

/// The values for the null columns of one snapshot.
#[derive(Clone, Default)]
pub struct Values {
    pub asn: Option<i64>,
    pub country: Option<Rc<OwnedVarlena<Text>>>,
    pub ip_type: Option<Rc<OwnedVarlena<Text>>>,
    pub document: Option<Rc<OwnedVarlena>>,
}

impl Values {
    /// Returns the values in the order of the snapshot columns. The values are stored in the current memory context.
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

/// Identifies a row of one table. Another row may later get the same tuple id. But one statement never stores two rows that
/// have the same tuple id and the same address.
type Key = (TupleId, Address);

struct Statement {
    table: Oid,
    values: HashMap<Key, Values>,
    erases: Option<Erasure>,
    /// New documents of rows whose document mentions an erased address. A row may have no valid address.
    documents: HashMap<(TupleId, Option<Address>), Rc<OwnedVarlena>>,
}

/// Describes a statement that erases addresses and their snapshots.
pub struct Erasure {
    /// If this address is erased, the trigger appends no negative counts, because the caller deletes the counts of this
    /// address.
    pub uncounted: Option<Address>,
}

thread_local! {
    /// The statements that are running now. The innermost statement is the last element.
    static RUNNING: RefCell<Vec<Statement>> = RefCell::default();
}

/// The values that are registered for a statement. When this `Registration` is dropped, the values are removed from the
/// register. An ERROR also drops the `Registration`.
pub struct Registration {
    /// Number of statements that were already running when the statement of this registration was registered.
    depth: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| running.truncate(self.depth));
    }
}

/// Registers values for rows of a table. Each row is identified by its tuple id and its address.
#[must_use]
pub fn register(table: Oid, rows: impl Iterator<Item = (TupleId, Address, Values)>) -> Registration {
    let values = rows.map(|(tuple_id, address, values)| ((tuple_id, address), values)).collect();
    begin(Statement { table, values, erases: None, documents: HashMap::new() })
}

/// Registers a statement that erases addresses in a table. If a row loses its address, the BEFORE trigger also sets its
/// snapshot columns to null.
#[must_use]
pub fn register_erasure(table: Oid, erasure: Erasure) -> Registration {
    begin(Statement { table, values: HashMap::new(), erases: Some(erasure), documents: HashMap::new() })
}

/// Registers a statement that replaces documents, because they mention an erased address.
#[must_use]
pub fn register_documents(
    table: Oid,
    rows: impl Iterator<Item = (TupleId, Option<Address>, Rc<OwnedVarlena>)>,
) -> Registration {
    let documents = rows.map(|(tuple_id, address, document)| ((tuple_id, address), document)).collect();
    begin(Statement { table, values: HashMap::new(), erases: None, documents })
}

fn begin(statement: Statement) -> Registration {
    RUNNING.with_borrow_mut(|running| {
        running.push(statement);
        Registration { depth: running.len() - 1 }
    })
}

/// Returns true if the innermost running statement erases addresses in this table.
pub fn is_erasing(table: Oid) -> bool {
    of_erasure(table, |_| true)
}

/// Returns true if the innermost running statement erases this address, and the trigger must not append negative counts for the
/// address.
pub fn is_uncounted(table: Oid, address: Address) -> bool {
    of_erasure(table, |erasure| erasure.uncounted == Some(address))
}

fn of_erasure(table: Oid, is_so: impl FnOnce(&Erasure) -> bool) -> bool {
    RUNNING.with_borrow(|running| {
        let statement = running.last().filter(|last| last.table == table);
        statement.and_then(|statement| statement.erases.as_ref()).is_some_and(is_so)
    })
}

/// Returns the values for a row if the extension is now filling this row.
pub fn values_for(table: Oid, tuple_id: Option<TupleId>, address: Option<Address>) -> Option<Values> {
    RUNNING.with_borrow(|running| {
        let statement = running.last().filter(|statement| statement.table == table)?;
        statement.values.get(&(tuple_id?, address?)).cloned()
    })
}

/// Returns the new document of a row if the extension is now replacing it.
pub fn replacement(
    table: Oid,
    tuple_id: Option<TupleId>,
    address: Option<Address>,
) -> Option<Rc<OwnedVarlena>> {
    RUNNING.with_borrow(|running| {
        let statement = running.last().filter(|statement| statement.table == table)?;
        statement.documents.get(&(tuple_id?, address)).cloned()
    })
}

/// Returns true if no statement is registered.
pub fn is_empty() -> bool {
    RUNNING.with_borrow(Vec::is_empty)
}

/// Empties the register. This function is called at the end of a transaction.
pub fn clear() {
    RUNNING.with_borrow_mut(Vec::clear);
}

/// Copies of texts and documents that many rows use. Each text and document is copied only once.
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
