//! Statements on the extension's tables. Each backend prepares each statement once. Statements on tables of users are in
//! [`super::user_table`].

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::marker::PhantomData;
use std::thread::LocalKey;

use pgrx::pg_sys;

use super::memory;
use super::sql_function::quoted_schema;
use super::value::{self, Arguments, Columns, Parameters, Value};

/// A statement from `sql/queries/`, with the types of its parameters and columns. `@extschema@` stands for the extension's schema,
/// as in install scripts. The header of the file declares the parameters.
pub struct Statement<P, C = ()> {
    name: &'static str,
    text: &'static str,
    /// True if the row locks of the statement skip rows that another transaction has locked.
    skips_locked: bool,
    /// True if the statement does not write, uses the snapshot of the calling statement, and has one plan for all
    /// arguments.
    reads_keys: bool,
    /// The plan, and the name of the schema for which the plan was prepared.
    plan: RefCell<(String, pg_sys::SPIPlanPtr)>,
    of: PhantomData<fn(P) -> C>,
}

impl<P: Parameters, C: Columns> Statement<P, C> {
    /// Makes a statement. Must be called in a constant. Compilation fails if the header of `text` declares parameters other
    /// than `P`.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        assert!(
            value::declares(text, P::NAMES),
            "the header of the statement must declare the same parameters as the code"
        );
        let plan = RefCell::new((String::new(), std::ptr::null_mut()));
        Statement { name, text, skips_locked: false, reads_keys: false, plan, of: PhantomData }
    }

    /// Changes the statement so that it skips rows that another transaction has locked.
    pub const fn skipping_locked(mut self) -> Self {
        self.skips_locked = true;
        self
    }

    /// Declares that the statement does not write and looks up rows by arrays of keys. A stable function may run such a statement,
    /// because it uses the snapshot of the statement that called the function. The plan does not depend on the arguments, because
    /// planning for each key of a long array takes longer than reading the rows.
    pub const fn reading_keys(mut self) -> Self {
        self.reads_keys = true;
        self
    }

    fn prepared(&self, schema: pg_sys::Oid) -> pg_sys::SPIPlanPtr {
        let Some(name) = quoted_schema(schema) else {
            pgrx::error!("the schema of extension cowrie_enrich does not exist");
        };
        // The names are compared, not the OIDs, because the schema may have been renamed.
        let plan = match &*self.plan.borrow() {
            (prepared_for, plan) if *prepared_for == name && !plan.is_null() => return *plan,
            (_, plan) => *plan,
        };
        let mut text = self.text.replace("@extschema@", &name);
        if self.skips_locked {
            text = text.replace("FOR NO KEY UPDATE", "FOR NO KEY UPDATE SKIP LOCKED");
        }
        let Ok(text) = CString::new(text) else {
            pgrx::error!("statement \"{}\" contains a NUL byte", self.name);
        };
        let mut types = P::OIDS.to_vec();
        // SAFETY: the list of types has the given length. SPI_keepplan moves the plan to memory that lives as long as the
        // backend. The plan for a former schema is freed.
        memory::returning(|| unsafe {
            let options = if self.reads_keys { pg_sys::CURSOR_OPT_GENERIC_PLAN as i32 } else { 0 };
            let fresh =
                pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
            if fresh.is_null() {
                pgrx::error!("could not prepare statement \"{}\"", self.name);
            }
            pg_sys::SPI_keepplan(fresh);
            if !plan.is_null() {
                pg_sys::SPI_freeplan(plan);
            }
            *self.plan.borrow_mut() = (name, fresh);
            fresh
        })
    }
}

/// Runs a statement of this thread.
pub trait Run<P: Parameters, C: Columns> {
    /// Executes the statement and passes the resulting rows to `read`. `read` allocates in the caller's memory context.
    fn run<T>(
        &'static self,
        connection: &Connection,
        arguments: impl Arguments<P>,
        read: impl FnOnce(&Rows<C>) -> T,
    ) -> T;

    /// Executes the statement and ignores its rows.
    fn execute(&'static self, connection: &Connection, arguments: impl Arguments<P>) {
        self.run(connection, arguments, |_| ());
    }

    /// Executes the statement and passes the first resulting row, if there is one, to `read`.
    fn first<T>(
        &'static self,
        connection: &Connection,
        arguments: impl Arguments<P>,
        read: impl FnOnce(C::Row<'_>) -> T,
    ) -> Option<T> {
        self.run(connection, arguments, |rows| rows.first().map(read))
    }
}

impl<P: Parameters, C: Columns> Run<P, C> for LocalKey<Statement<P, C>> {
    fn run<T>(
        &'static self,
        connection: &Connection,
        arguments: impl Arguments<P>,
        read: impl FnOnce(&Rows<C>) -> T,
    ) -> T {
        self.with(|statement| {
            let arguments = arguments.write();
            let mut datums: Vec<_> = arguments.as_ref().iter().map(|value| value.datum_or_zero()).collect();
            let nulls: Vec<c_char> =
                arguments.as_ref().iter().map(|v| if v.is_null() { b'n' } else { b' ' } as c_char).collect();
            let plan = statement.prepared(connection.schema);
            // SAFETY: the plan and the arguments have the same number of parameters and the same types,
            // because `P` determines both.
            let code = memory::returning(|| unsafe {
                pg_sys::SPI_execute_plan(plan, datums.as_mut_ptr(), nulls.as_ptr(), statement.reads_keys, 0)
            });
            Connection::hand_over(code, statement.name, read)
        })
    }
}

/// The result of one execution of a statement. It is valid only inside the closure that receives it. Its columns have the types
/// `C`.
pub struct Rows<C> {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
    of: PhantomData<C>,
}

impl<C: Columns> Rows<C> {
    /// Returns the result of the last execution. Raises an error if its columns do not have the types `C`. The owner of a table
    /// may have changed the type of a column, and a datum would then be read as a value of the wrong type.
    ///
    /// # Safety
    /// The global variables of SPI are those of a successful execution.
    unsafe fn of_last_execution(statement: &str) -> Rows<C> {
        // SAFETY: the caller promises that the last execution was successful. SPI_gettypeid returns InvalidOid for a column
        // that does not exist.
        unsafe {
            let table = pg_sys::SPI_tuptable;
            if !table.is_null() {
                for (number, types) in (1..).zip(C::TYPES) {
                    let found = pg_sys::SPI_gettypeid((*table).tupdesc, number);
                    if !types.contains(&found) {
                        pgrx::error!(
                            "column {number} of statement \"{statement}\" has an unexpected type (OID {found})"
                        );
                    }
                }
            }
            Rows { table, count: pg_sys::SPI_processed as usize, of: PhantomData }
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of columns, if the statement returns rows.
    pub(super) fn columns(&self) -> Option<usize> {
        // SAFETY: the result is valid while `self` exists.
        (!self.table.is_null()).then(|| unsafe { (*(*self.table).tupdesc).natts as usize })
    }

    pub fn first(&self) -> Option<C::Row<'_>> {
        self.iter().next()
    }

    pub fn iter(&self) -> impl Iterator<Item = C::Row<'_>> {
        (0..self.count).map(move |row| {
            // SAFETY: the types of the columns were compared with `C`. The rows stay valid while `self` is borrowed.
            unsafe { C::read(|column| self.datum(row, column)) }
        })
    }

    /// Returns all columns of each row, in order.
    pub fn values(&self) -> impl Iterator<Item = Vec<Value>> {
        let columns = C::TYPES.len() as i32;
        (0..self.count).map(move |row| (1..=columns).map(|column| self.value(row, column)).collect())
    }

    fn value(&self, row: usize, column: i32) -> Value {
        let Some(datum) = self.datum(row, column) else { return Value::NULL };
        // SAFETY: there is a row, hence a descriptor.
        let type_oid = unsafe { pg_sys::SPI_gettypeid((*self.table).tupdesc, column) };
        Value { datum: Some(datum), type_oid }
    }

    /// Returns the datum in a column of a row. Columns are counted from 1, and rows from 0.
    fn datum(&self, row: usize, column: i32) -> Option<pg_sys::Datum> {
        if row >= self.count || self.table.is_null() {
            return None;
        }
        let mut is_null = false;
        // SAFETY: the row exists. SPI_getbinval returns null for a missing column.
        let datum = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// Returns a row as a composite value. The value is allocated outside the memory of the SPI connection.
    pub fn composite(&self, row: usize) -> Option<Value> {
        if row >= self.count || self.table.is_null() {
            return None;
        }
        // SAFETY: SPI_returntuple copies the row to the memory context outside SPI, and sets the row type in the copy.
        unsafe {
            let tuple = *(*self.table).vals.add(row);
            let row = pg_sys::SPI_returntuple(tuple, (*self.table).tupdesc);
            Some(Value::composite(pg_sys::HeapTupleHeaderGetDatum(row)))
        }
    }
}

/// An open SPI connection.
pub struct Connection {
    schema: pg_sys::Oid,
}

impl Connection {
    /// Returns the extension's schema, in which the statements run.
    pub fn schema(&self) -> pg_sys::Oid {
        self.schema
    }

    /// Runs `work` inside an SPI connection. Memory that `work` allocates in the connection is freed at the end.
    pub fn with<T>(schema: pg_sys::Oid, work: impl FnOnce(&Connection) -> T) -> T {
        Self::connect(schema, 0, work)
    }

    /// Runs `work` inside an SPI connection in which a procedure may commit between its steps.
    pub fn with_commits<T>(schema: pg_sys::Oid, work: impl FnOnce(&Connection) -> T) -> T {
        Self::connect(schema, pg_sys::SPI_OPT_NONATOMIC as i32, work)
    }

    fn connect<T>(schema: pg_sys::Oid, options: i32, work: impl FnOnce(&Connection) -> T) -> T {
        // SAFETY: SPI_finish closes the connection that SPI_connect_ext opened. After an ERROR, the abort of the transaction
        // closes the connection.
        unsafe {
            if pg_sys::SPI_connect_ext(options) != pg_sys::SPI_OK_CONNECT as i32 {
                pgrx::error!("could not connect to the SPI manager");
            }
            let result = work(&Connection { schema });
            pg_sys::SPI_finish();
            result
        }
    }

    /// Commits the transaction and begins the next one. May be called only inside [`Connection::with_commits`].
    pub fn commit(&self) {
        // SAFETY: the connection allows a commit. The extension has no open snapshot or cursor.
        unsafe { pg_sys::SPI_commit() }
    }

    /// Executes a statement that has no plan, such as GRANT. The text is in the server's encoding.
    pub fn run_utility(&self, text: &[u8]) {
        let Ok(text) = CString::new(text) else { pgrx::error!("a statement contains a NUL byte") };
        // SAFETY: a NUL-terminated text.
        let code = memory::returning(|| unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) });
        Self::hand_over::<(), _>(code, "without a plan", |_| ());
    }

    pub(super) fn hand_over<C: Columns, T>(code: i32, name: &str, read: impl FnOnce(&Rows<C>) -> T) -> T {
        if code < 0 {
            pgrx::error!("could not run statement \"{name}\": SPI code {code}");
        }
        // SAFETY: the execution has just ended without an error. The tuple table is freed once, after its last use.
        unsafe {
            let rows = Rows::of_last_execution(name);
            let result = read(&rows);
            if !rows.table.is_null() {
                pg_sys::SPI_freetuptable(rows.table);
            }
            result
        }
    }
}
