//! Statements on tables that belong to users.
//!
//! A name can mean another table a moment later: a user can rename the table or its schema, and then create a new table with
//! the old name. So a statement on a user's table runs in these steps, and this file offers no other way to run such a
//! statement.
//!
//! 1. [`UserTable::lock`] locks the table by its OID, and checks that it is an ordinary or a partitioned table. From then on
//!    the table can be neither renamed nor altered nor dropped. Its schema can still be renamed.
//! 2. The statement gets the name that the table has now.
//! 3. The server looks the name up once, when it analyses the statement. `plan` compares each relation that the server found
//!    with the locked table.
//! 4. The server rewrites, plans and executes this query tree, which holds OIDs. It uses no cached plan, because
//!    the server rebuilds a cached plan from the text, by name.
//!
//! Utility statements have no query tree, and look names up while they run. Before such a statement, [`FrozenTable::lock`] also
//! locks the row of the schema in `pg_namespace`, as the check of a foreign key locks a referenced row. Then the schema can be
//! neither renamed nor dropped until the transaction ends, so the name keeps its meaning.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;

use pgrx::pg_sys;

use super::column::{Column, Generated};
use super::role::in_restricted_operation_as;
use super::spi::{Connection, Rows};
use super::value::{self, Arguments, Columns, Parameters};
use super::{catalog, memory, transaction};

mod errors;
mod locks;
mod plan;

use locks::{RelationClass, class, descendants, hold_schema, lock_indexes};
pub use plan::OtherRelations;
use plan::Target;

/// Lock on a table, until the transaction ends.
#[derive(Clone, Copy)]
pub enum Lock {
    Read,
    Write,
    /// Allows readers and writers.
    Validate,
    /// Allows readers.
    Index,
    /// Excludes all other access.
    Alter,
}

impl Lock {
    fn mode(self) -> pg_sys::LOCKMODE {
        let mode = match self {
            Lock::Read => pg_sys::AccessShareLock,
            Lock::Write => pg_sys::RowExclusiveLock,
            Lock::Validate => pg_sys::ShareUpdateExclusiveLock,
            Lock::Index => pg_sys::ShareRowExclusiveLock,
            Lock::Alter => pg_sys::AccessExclusiveLock,
        };
        mode as pg_sys::LOCKMODE
    }
}

/// An ordinary or partitioned table that this transaction has locked.
pub struct UserTable {
    oid: pg_sys::Oid,
    owner: pg_sys::Oid,
    has_partitions: bool,
    /// True if statements also apply to the partitions or inheritance children.
    reaches_children: bool,
}

/// A statement from `sql/queries/` on one user's table. In its text, `@table@` stands for the table: with ONLY, unless the
/// statement also applies to the partitions or inheritance children. Lines that begin with `--` are left out. The parameters
/// and columns have types. The header of the file declares the parameters.
pub struct TableStatement<'a, P, C> {
    /// Name of the statement, for messages.
    name: &'static str,
    text: &'static str,
    parts: &'a [(&'static str, &'a [u8])],
    others: OtherRelations<'a>,
    is_read_only: bool,
    of: PhantomData<fn(P) -> C>,
}

impl<'a, P: Parameters, C: Columns> TableStatement<'a, P, C> {
    /// Makes a statement. Must be called in a constant. Compilation fails if the header of `text` declares parameters other
    /// than `P`.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        assert!(
            value::declares(text, P::NAMES),
            "the header of the statement must declare the same parameters as the code"
        );
        TableStatement {
            name,
            text,
            parts: &[],
            others: OtherRelations::None,
            is_read_only: false,
            of: PhantomData,
        }
    }

    /// Adds further placeholders, each with the text that replaces it. The texts are in the server's encoding.
    pub fn with_parts(mut self, parts: &'a [(&'static str, &'a [u8])]) -> Self {
        self.parts = parts;
        self
    }

    /// Sets which other relations the statement may name.
    pub fn naming(mut self, others: OtherRelations<'a>) -> Self {
        self.others = others;
        self
    }

    /// Declares that the statement does not write. The statement then uses the active snapshot. This snapshot belongs to the
    /// statement that called the function.
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }
}

impl UserTable {
    /// Locks a table, and waits for the lock if necessary. Returns `None` if the table was dropped, or if the relation is
    /// neither an ordinary nor a partitioned table. Also returns `None` for a temporary table of another session, because its
    /// pages are in the memory of that session.
    pub fn lock(table: pg_sys::Oid, lock: Lock) -> Option<UserTable> {
        // SAFETY: the server allows a lock on an OID even if no relation has this OID. The catalogs are read again after the
        // lock was taken.
        unsafe {
            // Indexes and composite types are not locked like tables.
            class(table).filter(RelationClass::is_table)?;
            pg_sys::LockRelationOid(table, lock.mode());
            let class = class(table).filter(RelationClass::is_table)?;
            if pg_sys::isOtherTempNamespace(class.schema) {
                return None;
            }
            let has_partitions = class.kind == pg_sys::RELKIND_PARTITIONED_TABLE;
            Some(UserTable {
                oid: table,
                owner: class.owner,
                has_partitions,
                reaches_children: has_partitions,
            })
        }
    }

    /// Makes statements include the inheritance children.
    pub fn with_children(mut self) -> UserTable {
        self.reaches_children = true;
        self
    }

    pub fn oid(&self) -> pg_sys::Oid {
        self.oid
    }

    /// Returns the owner of the table. The owner cannot change while the table is locked.
    pub fn owner(&self) -> pg_sys::Oid {
        self.owner
    }

    pub fn has_partitions(&self) -> bool {
        self.has_partitions
    }

    /// Runs `work` as the owner of the table, in a security-restricted operation. Deferred triggers fire before the operation
    /// ends, because at commit they would run as another role.
    pub fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        in_restricted_operation_as(self.owner, || {
            transaction::defer_nothing();
            let result = work();
            // The owner's code may have deferred triggers again.
            transaction::fire_deferred_triggers();
            result
        })
    }

    /// Returns the partitions and inheritance children of all levels, and locks them for reading.
    pub fn descendants(&self) -> Vec<pg_sys::Oid> {
        descendants(self.oid, pg_sys::AccessShareLock)
    }

    /// Returns the column with this name, and whether and how the values of the column are generated.
    pub fn column(&self, name: &CStr) -> Option<(Column, Generated)> {
        // SAFETY: the table is locked. Therefore it can be opened without a further lock, and its definition cannot change.
        unsafe {
            let relation = pg_sys::table_open(self.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let column = Column::named((*relation).rd_att, name);
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            column.map(|column| (column, column.generated(self.oid)))
        }
    }

    /// Returns the text of a statement, in the server's encoding.
    pub fn text<P, C>(&self, statement: &TableStatement<'_, P, C>) -> Vec<u8> {
        filled(statement.text, statement.parts, &self.reference())
    }

    /// Returns the current name of the table, in the form in which a statement contains it.
    fn reference(&self) -> Vec<u8> {
        let name = catalog::quoted_table_name(self.oid);
        if name.is_empty() {
            errors::changed(self.oid);
        }
        if self.reaches_children { name } else { [b"ONLY ", name.as_slice()].concat() }
    }
}

/// A table whose name keeps its meaning until the transaction ends.
pub struct FrozenTable(UserTable);

impl FrozenTable {
    /// Locks the table and the row of its schema. Waits for these locks.
    pub fn lock(table: pg_sys::Oid, lock: Lock) -> Option<FrozenTable> {
        let locked = UserTable::lock(table, lock)?;
        hold_schema(table);
        Some(FrozenTable(locked))
    }

    pub fn table(&self) -> &UserTable {
        &self.0
    }

    /// Locks a table and its inheritance children of all levels. Leaves out children that are not permanent or have another
    /// owner. Parents come first in the result. With [`Lock::Alter`], also locks the indexes, so that their names keep their
    /// meaning.
    pub fn lock_tree(table: pg_sys::Oid, lock: Lock) -> Vec<FrozenTable> {
        let Some(first) = FrozenTable::lock(table, lock) else { return Vec::new() };
        let owner = first.0.owner;
        let has_partitions = first.0.has_partitions;
        let mut tables = vec![first];
        // While a table is locked, it gets no new children. So once a child is locked, the child gets no new children either.
        loop {
            let known: Vec<pg_sys::Oid> = tables.iter().map(|table| table.0.oid).collect();
            let children = if has_partitions { Vec::new() } else { descendants(table, pg_sys::NoLock) };
            let is_new = |child: &pg_sys::Oid| !known.contains(child);
            let new: Vec<FrozenTable> = children
                .into_iter()
                .filter(is_new)
                .filter(|child| {
                    class(*child).is_some_and(|class| class.is_permanent() && class.owner == owner)
                })
                .filter_map(|child| FrozenTable::lock(child, lock))
                .filter(|child| child.0.owner == owner)
                .collect();
            if new.is_empty() {
                break;
            }
            tables.extend(new);
        }
        if matches!(lock, Lock::Alter) {
            tables.iter().for_each(|table| lock_indexes(table.0.oid));
        }
        tables
    }

    /// Runs one utility statement, in which `@table@` stands for the table.
    pub fn run_utility(&self, _: &Connection, text: &str, parts: &[(&'static str, &[u8])]) {
        let statement = terminated(filled(text, parts, &self.0.reference()));
        // SAFETY: the text is NUL-terminated, and the connection is open. A utility statement returns no rows.
        let code = memory::returning(|| unsafe {
            let raw = plan::only(pg_sys::pg_parse_query(statement.as_ptr()));
            if (*(*raw).stmt).type_ != pg_sys::NodeTag::T_AlterTableStmt {
                pgrx::error!("a utility statement for a session table is not an ALTER TABLE statement");
            }
            pg_sys::SPI_execute(statement.as_ptr(), false, 0)
        });
        if code < 0 {
            pgrx::error!("could not run a utility statement for a session table: SPI code {code}");
        }
    }
}

impl Connection {
    /// Runs a statement on a locked table, and passes the resulting rows to `read`. No argument may be null. The types of the
    /// rows are checked, because the owner of the table or the caller may have written part of the statement.
    pub fn run_on<P: Parameters, C: Columns, T>(
        &self,
        table: &UserTable,
        statement: &TableStatement<'_, P, C>,
        arguments: impl Arguments<P>,
        read: impl FnOnce(&Rows<C>) -> T,
    ) -> T {
        let arguments = arguments.write();
        if arguments.as_ref().iter().any(|value| value.is_null()) {
            pgrx::error!("an argument of statement \"{}\" is null", statement.name);
        }
        let arguments: Vec<_> = arguments.as_ref().iter().map(|value| value.datum_or_zero()).collect();
        let text = terminated(table.text(statement));
        // SAFETY: this function closes the portal below. After an ERROR, the abort of the transaction or subtransaction closes
        // it. All trees live in the portal's memory. The query tree was compared with the locked table, and is executed
        // unchanged.
        unsafe {
            let portal = pg_sys::CreateNewPortal();
            (*portal).visible = false;
            memory::returning(|| {
                pg_sys::MemoryContextSwitchTo((*portal).portalContext);
                let parameters = plan::parameters(P::OIDS, &arguments);
                let source = pg_sys::pstrdup(text.as_ptr());
                let target = Target {
                    oid: table.oid,
                    reaches_children: table.reaches_children,
                    others: statement.others,
                };
                let plan = plan::planned(target, P::OIDS, source, parameters);
                let tag = pg_sys::CreateCommandTag(plan.cast());
                let plans = pg_sys::lappend(std::ptr::null_mut(), plan.cast());
                pg_sys::PortalDefineQuery(portal, std::ptr::null(), source, tag, plans, std::ptr::null_mut());
                let snapshot = if statement.is_read_only {
                    if !pg_sys::CommandIsReadOnly(plan) {
                        errors::writes(statement.name);
                    }
                    pg_sys::GetActiveSnapshot()
                } else {
                    pg_sys::CommandCounterIncrement();
                    pg_sys::GetTransactionSnapshot()
                };
                pg_sys::PortalStart(portal, parameters, 0, snapshot);
            });
            memory::returning(|| pg_sys::SPI_cursor_fetch(portal, true, std::ffi::c_long::MAX));
            let result = Self::hand_over(pg_sys::SPI_OK_FETCH as i32, statement.name, |rows: &Rows<C>| {
                if rows.columns().is_some_and(|columns| columns != C::TYPES.len()) {
                    pgrx::error!("statement \"{}\" returns an unexpected number of columns", statement.name);
                }
                read(rows)
            });
            pg_sys::SPI_cursor_close(portal);
            if !statement.is_read_only {
                pg_sys::CommandCounterIncrement();
            }
            result
        }
    }
}

/// Returns the statement with all placeholders replaced. Placeholders in the replacing texts are not replaced.
fn filled(text: &str, parts: &[(&'static str, &[u8])], table: &[u8]) -> Vec<u8> {
    // Comments may contain placeholders.
    let code: String = text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    let mut rest = code.as_str();
    let mut filled = Vec::with_capacity(code.len() + table.len());
    while let Some(at) = rest.find('@') {
        let (before, from) = rest.split_at(at);
        filled.extend_from_slice(before.as_bytes());
        let table = ("@table@", table);
        let part = parts.iter().copied().chain([table]).find(|(name, _)| from.starts_with(name));
        let (length, value) = part.map_or((1, &b"@"[..]), |(name, value)| (name.len(), value));
        filled.extend_from_slice(value);
        rest = &from[length..];
    }
    filled.extend_from_slice(rest.as_bytes());
    filled
}

fn terminated(text: Vec<u8>) -> CString {
    let Ok(text) = CString::new(text) else { pgrx::error!("a statement contains a NUL byte") };
    text
}
