//! Statements on our own tables, prepared once per backend. Those on tables of users are in [`super::user_table`].

use std::cell::RefCell;
use std::ffi::CString;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::call::quoted_schema;
use super::jsonb::Container;
use super::relation::Place;
use super::{inet, memory, text};

/// A statement from `sql/queries/`. `@extschema@` stands for the extension's schema, as in install scripts.
pub struct Statement {
    name: &'static str,
    text: &'static str,
    argument_types: &'static [pg_sys::Oid],
    /// Whether its row locks pass over rows that somebody else holds.
    skips_locked: bool,
    /// The schema's name that it was prepared for, and the plan.
    plan: RefCell<(String, pg_sys::SPIPlanPtr)>,
}

/// The result of one execution, valid inside the closure that it is handed to.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    pub count: usize,
}

/// An open SPI connection.
pub struct Connection {
    schema: pg_sys::Oid,
}

impl Connection {
    /// Runs `work` inside an SPI connection. What it allocates there is gone when it returns.
    pub fn with<T>(schema: pg_sys::Oid, work: impl FnOnce(&Connection) -> T) -> T {
        Self::connect(schema, 0, work)
    }

    /// The same for a procedure that may commit between its steps.
    pub fn with_commits<T>(schema: pg_sys::Oid, work: impl FnOnce(&Connection) -> T) -> T {
        Self::connect(schema, pg_sys::SPI_OPT_NONATOMIC as i32, work)
    }

    fn connect<T>(schema: pg_sys::Oid, options: i32, work: impl FnOnce(&Connection) -> T) -> T {
        // SAFETY: connect and finish pair up; on ERROR the transaction's abort closes the connection.
        unsafe {
            if pg_sys::SPI_connect_ext(options) != pg_sys::SPI_OK_CONNECT as i32 {
                pgrx::error!("could not connect to the SPI manager");
            }
            let result = work(&Connection { schema });
            pg_sys::SPI_finish();
            result
        }
    }

    /// Ends the transaction and begins the next; only inside [`Connection::with_commits`].
    pub fn commit(&self) {
        // SAFETY: the connection is not atomic, and no snapshot or cursor of ours is open.
        unsafe { pg_sys::SPI_commit() }
    }

    /// Executes a statement and hands its rows to `read`. What `read` allocates is in the caller's memory.
    pub fn run<T>(
        &self,
        statement: &Statement,
        arguments: &[Option<pg_sys::Datum>],
        read: impl FnOnce(&Rows) -> T,
    ) -> T {
        let plan = statement.prepared(self.schema);
        let mut datums: Vec<_> = arguments.iter().map(|a| a.unwrap_or(pg_sys::Datum::from(0))).collect();
        let nulls: Vec<std::ffi::c_char> =
            arguments.iter().map(|a| if a.is_none() { b'n' } else { b' ' } as std::ffi::c_char).collect();
        // SAFETY: plan and arguments agree in number and types, which `prepared` declares.
        let code = memory::returning(|| unsafe {
            pg_sys::SPI_execute_plan(plan, datums.as_mut_ptr(), nulls.as_ptr(), false, 0)
        });
        Self::hand_over(code, statement.name, read)
    }

    /// Executes a statement that has no plan, such as GRANT. The text is in the server's encoding.
    pub fn run_utility(&self, text: &[u8]) {
        let Ok(text) = CString::new(text) else { pgrx::error!("a statement contains a NUL byte") };
        // SAFETY: a NUL-terminated text.
        let code = memory::returning(|| unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) });
        Self::hand_over(code, "without a plan", |_| ());
    }

    pub(super) fn hand_over<T>(code: i32, name: &str, read: impl FnOnce(&Rows) -> T) -> T {
        if code < 0 {
            pgrx::error!("could not run statement \"{name}\": SPI code {code}");
        }
        // SAFETY: both were set by the execution that has just ended; the table is freed once, after its last use.
        unsafe {
            let rows = Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize };
            let result = read(&rows);
            if !rows.table.is_null() {
                pg_sys::SPI_freetuptable(rows.table);
            }
            result
        }
    }
}

impl Statement {
    pub const fn new(name: &'static str, text: &'static str, argument_types: &'static [pg_sys::Oid]) -> Self {
        let plan = RefCell::new((String::new(), std::ptr::null_mut()));
        Statement { name, text, argument_types, skips_locked: false, plan }
    }

    /// The same statement, passing over rows that somebody else has locked.
    pub const fn skipping_locked(mut self) -> Self {
        self.skips_locked = true;
        self
    }

    fn prepared(&self, schema: pg_sys::Oid) -> pg_sys::SPIPlanPtr {
        let Some(name) = quoted_schema(schema) else {
            pgrx::error!("schema of cowrie_enrich does not exist");
        };
        // By name: somebody may rename the schema.
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
        let mut types = self.argument_types.to_vec();
        // SAFETY: the type list has the length given; SPI_keepplan moves the plan to memory that lives as long as
        // the backend, and the plan of a former schema is freed.
        memory::returning(|| unsafe {
            let fresh = pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr());
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

impl Rows {
    pub(super) fn are_of(&self, types: &[pg_sys::Oid]) -> bool {
        if self.table.is_null() {
            return types.is_empty();
        }
        // SAFETY: the result is valid while this is; SPI_gettypeid answers InvalidOid for columns that do not exist.
        unsafe {
            let descriptor = (*self.table).tupdesc;
            let of =
                |(number, wanted): (i32, &pg_sys::Oid)| pg_sys::SPI_gettypeid(descriptor, number) == *wanted;
            (*descriptor).natts as usize == types.len() && (1..).zip(types).all(of)
        }
    }

    /// Column `column`, from 1, of row `row`, from 0.
    pub fn datum(&self, row: usize, column: i32) -> Option<pg_sys::Datum> {
        if row >= self.count || self.table.is_null() {
            return None;
        }
        let mut is_null = false;
        // SAFETY: the row exists, and SPI_getbinval answers null for a column that does not.
        let datum = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// The same for a column that must be of one of these types. A table's owner may have changed the type since the
    /// statement was written: then it is an error, because the datum would be read as something else.
    fn typed(&self, row: usize, column: i32, types: &[pg_sys::Oid]) -> Option<pg_sys::Datum> {
        let datum = self.datum(row, column)?;
        // SAFETY: there is a row, hence a descriptor; SPI_gettypeid returns InvalidOid for a column that does not exist.
        let found = unsafe { pg_sys::SPI_gettypeid((*self.table).tupdesc, column) };
        if !types.contains(&found) {
            pgrx::error!("column {column} of a statement of cowrie_enrich has the type with OID {found}");
        }
        Some(datum)
    }

    /// A column of an integer type, or a point in time in microseconds since 2000.
    pub fn bigint(&self, row: usize, column: i32) -> Option<i64> {
        const TYPES: [pg_sys::Oid; 4] =
            [pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::OIDOID, pg_sys::TIMESTAMPTZOID];
        self.typed(row, column, &TYPES).map(|datum| datum.value() as i64)
    }

    pub fn boolean(&self, row: usize, column: i32) -> Option<bool> {
        self.typed(row, column, &[pg_sys::BOOLOID]).map(|datum| datum.value() != 0)
    }

    pub fn float(&self, row: usize, column: i32) -> Option<f64> {
        // SAFETY: the column is a float8, which is passed by value.
        self.typed(row, column, &[pg_sys::FLOAT8OID])
            .and_then(|datum| unsafe { pgrx::FromDatum::from_datum(datum, false) })
    }

    /// A column of type jsonb, valid as long as the rows.
    pub fn jsonb(&self, row: usize, column: i32) -> Option<Container<'_>> {
        // SAFETY: the column is a jsonb.
        self.jsonb_datum(row, column).map(|datum| unsafe { Container::read(datum) })
    }

    /// The same as a datum.
    pub fn jsonb_datum(&self, row: usize, column: i32) -> Option<pg_sys::Datum> {
        self.typed(row, column, &[pg_sys::JSONBOID])
    }

    /// A column of type tid.
    pub fn place(&self, row: usize, column: i32) -> Option<Place> {
        // SAFETY: the column is a tid.
        self.typed(row, column, &[pg_sys::TIDOID]).map(|datum| unsafe { Place::read(datum) })
    }

    /// A column of type inet.
    pub fn address(&self, row: usize, column: i32) -> Option<Address> {
        // SAFETY: the column is an inet.
        self.typed(row, column, &[pg_sys::INETOID])
            .and_then(|datum| unsafe { inet::read(datum) })
            .map(|inet| inet.address)
    }

    /// A column of type text, varchar or char, in the server's encoding.
    pub fn bytes(&self, row: usize, column: i32) -> Option<Vec<u8>> {
        const TYPES: [pg_sys::Oid; 3] = [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID];
        // SAFETY: the column is of a type that is stored as text is.
        self.typed(row, column, &TYPES).map(|datum| unsafe { text::bytes(datum) }.to_vec())
    }

    /// A column of type text, varchar or char.
    pub fn text(&self, row: usize, column: i32) -> Option<String> {
        self.bytes(row, column).map(|bytes| text::from_server(&bytes).into_owned())
    }

    /// A row as a composite value outside the SPI connection's memory.
    pub fn composite(&self, row: usize) -> Option<pg_sys::Datum> {
        if row >= self.count || self.table.is_null() {
            return None;
        }
        // SAFETY: SPI_returntuple copies the row to the context outside SPI and stamps its row type.
        unsafe {
            let tuple = *(*self.table).vals.add(row);
            Some(pg_sys::HeapTupleHeaderGetDatum(pg_sys::SPI_returntuple(tuple, (*self.table).tupdesc)))
        }
    }
}
