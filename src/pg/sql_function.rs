//! Calls from SQL: arguments and results of functions.

use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::inet::Inet;
use super::jsonb::Container;
use super::value::{self, SqlType, Typed, Value};
use super::{array, inet, text};

/// One call of an SQL function.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

/// The fields of an `interval`. From version 17 on, the fields of an infinite interval have the smallest or
/// the largest possible values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub microseconds: i64,
}

/// The result of an SQL function's body. The install script declares the function's type.
pub trait Returned {
    fn returned(self) -> Value;
}

impl Returned for Value {
    fn returned(self) -> Value {
        self
    }
}

impl<T: SqlType> Returned for Typed<T> {
    fn returned(self) -> Value {
        self.into()
    }
}

impl<R: Returned> Returned for Option<R> {
    fn returned(self) -> Value {
        self.map_or(Value::NULL, R::returned)
    }
}

/// Used for a function that returns nothing, and for a trigger whose result the server ignores.
impl Returned for () {
    fn returned(self) -> Value {
        Value { datum: Some(pg_sys::Datum::from(0)), type_oid: pg_sys::VOIDOID }
    }
}

/// Makes `$body: fn(&Call) -> impl Returned` callable from SQL as `$symbol`.
#[macro_export]
macro_rules! sql_function {
    ($symbol:ident, $finfo:ident, $body:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $finfo() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            const V1: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[unsafe(no_mangle)]
        #[doc(hidden)]
        #[::pgrx::pg_guard]
        pub extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            $crate::pg::sql_function::Call::enter(fcinfo, $body)
        }
    };
}

impl Call {
    /// Entry point of [`sql_function!`]; `fcinfo` comes from the server.
    pub fn enter<R: Returned>(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Call) -> R) -> pg_sys::Datum {
        let call = Call { fcinfo };
        let result = body(&call).returned().datum;
        // SAFETY: the server passes a valid fcinfo for the duration of the call.
        unsafe { (*fcinfo).isnull = result.is_none() };
        result.unwrap_or(pg_sys::Datum::from(0))
    }

    pub(super) fn raw(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// Returns argument `n`, counted from 0. Returns `None` if the argument is null.
    fn datum(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the SQL declaration of the function fixes the number of its arguments. Each body reads only arguments that
        // the declaration has.
        unsafe {
            let argument = (*self.fcinfo).args.as_ptr().add(n);
            (!(*argument).isnull).then(|| (*argument).value)
        }
    }

    pub fn is_null(&self, n: usize) -> bool {
        self.datum(n).is_none()
    }

    pub fn inet(&self, n: usize) -> Option<Inet> {
        // SAFETY: the argument is declared inet.
        self.datum(n).and_then(|datum| unsafe { inet::read(datum) })
    }

    /// Returns the address of an `inet` argument, without its prefix length.
    pub fn address(&self, n: usize) -> Option<Address> {
        self.inet(n).map(|inet| inet.address)
    }

    /// Returns an argument of the declared type cidr. Returns `None` if the argument is null, or if it is a prefix of
    /// IPv4-mapped addresses that is shorter than /96.
    pub fn prefix(&self, n: usize) -> Option<Prefix> {
        // SAFETY: the argument is declared cidr.
        self.datum(n).and_then(|datum| unsafe { inet::read_prefix(datum) })
    }

    pub fn inets(&self, n: usize) -> Vec<Option<Inet>> {
        let Some(datum) = self.datum(n) else { return Vec::new() };
        // SAFETY: the argument is declared inet[], so its elements are inet datums.
        unsafe { array::read_inets(datum).into_iter().map(|e| e.and_then(|d| inet::read(d))).collect() }
    }

    /// Returns the elements of a `text[]` argument. Returns `None` if the argument is null.
    pub fn texts(&self, n: usize) -> Option<Vec<Option<String>>> {
        let datum = self.datum(n)?;
        // SAFETY: the argument is declared text[], so its elements are text datums.
        let read = |element| text::from_server(unsafe { text::bytes(element) }).into_owned();
        // SAFETY: as above.
        Some(unsafe { array::elements::<value::Text>(datum) }.into_iter().map(|e| e.map(read)).collect())
    }

    /// Returns an argument declared interval.
    pub fn interval(&self, n: usize) -> Option<Interval> {
        // SAFETY: the argument is declared interval, and outlives the call.
        self.datum(n).map(|datum| unsafe {
            let interval: *const pg_sys::Interval = datum.cast_mut_ptr();
            Interval { months: (*interval).month, days: (*interval).day, microseconds: (*interval).time }
        })
    }

    pub fn timestamptz(&self, n: usize) -> Option<Timestamp> {
        self.datum(n).map(|datum| Timestamp::from_micros(datum.value() as i64))
    }

    pub fn text(&self, n: usize) -> Option<String> {
        // SAFETY: the argument is declared text.
        self.datum(n).map(|datum| text::from_server(unsafe { text::bytes(datum) }).into_owned())
    }

    /// Returns an argument declared name.
    pub fn name(&self, n: usize) -> Option<&CStr> {
        // SAFETY: a name is NUL-terminated within its fixed length, and stays valid during the call.
        self.datum(n).map(|datum| unsafe { CStr::from_ptr(datum.cast_mut_ptr()) })
    }

    /// Returns an argument declared cstring, in the server's encoding.
    pub fn cstring(&self, n: usize) -> Option<&CStr> {
        // SAFETY: a cstring is NUL-terminated, and stays valid during the call.
        self.datum(n).map(|datum| unsafe { CStr::from_ptr(datum.cast_mut_ptr()) })
    }

    pub fn text_bytes(&self, n: usize) -> Option<&[u8]> {
        // SAFETY: the argument is declared text and outlives the call.
        self.datum(n).map(|datum| unsafe { text::bytes(datum) })
    }

    /// Returns an argument declared jsonb.
    pub fn jsonb(&self, n: usize) -> Option<Container<'_>> {
        // SAFETY: the argument is declared jsonb and outlives the call.
        self.datum(n).map(|datum| unsafe { Container::read(datum) })
    }

    pub fn bigint(&self, n: usize) -> Option<i64> {
        self.datum(n).map(|datum| datum.value() as i64)
    }

    pub fn timestamp(&self, n: usize) -> Option<Timestamp> {
        self.bigint(n).map(Timestamp::from_micros)
    }

    pub fn integer(&self, n: usize) -> Option<i32> {
        self.datum(n).map(|datum| datum.value() as i32)
    }

    /// Returns an argument declared oid, or one of its aliases.
    pub fn oid(&self, n: usize) -> Option<pg_sys::Oid> {
        self.datum(n).map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    pub fn boolean(&self, n: usize) -> Option<bool> {
        self.datum(n).map(|datum| datum.value() != 0)
    }

    /// Returns the OID of the called function.
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: the server fills flinfo for every call through fmgr.
        unsafe { (*(*self.fcinfo).flinfo).fn_oid }
    }

    /// Returns true if a procedure may not commit, because it was called inside a transaction block or inside a function.
    pub fn is_atomic(&self) -> bool {
        // SAFETY: if a CALL statement runs the procedure, the context is a CallContext node. Otherwise, the context is null or
        // a node of another type.
        unsafe {
            let context = (*self.fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_CallContext {
                return true;
            }
            (*context.cast::<pg_sys::CallContext>()).atomic
        }
    }

    /// Passes all rows of a set-returning function to the server. Each row must have one value for each OUT parameter of the
    /// function.
    pub fn set(&self, rows: impl IntoIterator<Item = Vec<Value>>) {
        // SAFETY: the server passes a ReturnSetInfo to a function that returns a set. InitMaterializedSRF sets the tuple store
        // and the descriptor in it, or raises an error if the caller does not accept a tuple store. Rows are copied into the
        // tuple store.
        unsafe {
            pg_sys::InitMaterializedSRF(self.fcinfo, 0);
            let result = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let types = column_types((*result).setDesc);
            for row in rows {
                require_fitting(&types, &row);
                let (mut values, mut nulls) = parts(&row);
                pg_sys::tuplestore_putvalues(
                    (*result).setResult,
                    (*result).setDesc,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
            }
        }
    }

    /// Returns a row of the function's result type.
    pub fn record(&self, values: Vec<Value>) -> Value {
        let mut descriptor: pg_sys::TupleDesc = std::ptr::null_mut();
        // SAFETY: the OUT parameters make the result type composite. The values are compared with the descriptor before the
        // tuple is formed.
        unsafe {
            let class = pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Value::NULL;
            }
            require_fitting(&column_types(descriptor), &values);
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let (mut datums, mut nulls) = parts(&values);
            let tuple = pg_sys::heap_form_tuple(descriptor, datums.as_mut_ptr(), nulls.as_mut_ptr());
            Value::composite(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}

/// Returns the types of a descriptor's columns.
///
/// # Safety
/// The descriptor must be valid.
unsafe fn column_types(descriptor: pg_sys::TupleDesc) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller promises that the descriptor is valid. SPI_gettypeid is called only for existing columns.
    unsafe { (1..=(*descriptor).natts).map(|number| pg_sys::SPI_gettypeid(descriptor, number)).collect() }
}

/// Raises an error if a row of these values does not fit columns of these types.
fn require_fitting(types: &[pg_sys::Oid], row: &[Value]) {
    if row.len() != types.len() {
        pgrx::error!("a row has {} values, but the result has {} columns", row.len(), types.len());
    }
    for ((number, value), type_oid) in (1..).zip(row).zip(types) {
        if !value.fits(*type_oid) {
            pgrx::error!("the value for column {number} of a result does not have the type of the column");
        }
    }
}

/// Returns the datums and the null flags of a row, in the form that the server takes.
fn parts(row: &[Value]) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    row.iter().map(|value| (value.datum_or_zero(), value.is_null())).unzip()
}

/// Returns the schema of a function of the extension. The schema contains all objects of the extension.
pub fn schema_of_function(function: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::get_func_namespace(function) }
}

/// Returns true if the function has this name in this schema.
pub fn is_function(function: pg_sys::Oid, schema: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: system cache lookups. get_func_name returns null for a missing function, or a palloc'ed string.
    unsafe {
        let found = pg_sys::get_func_name(function);
        !found.is_null() && CStr::from_ptr(found) == name && pg_sys::get_func_namespace(function) == schema
    }
}

/// Returns the owner of a function of the extension. The same role owns the extension.
pub fn owner_of_function(function: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the tuple comes from the system cache. It is released after one of its fixed-width fields was read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            pg_sys::Datum::from(function),
        );
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let form: *mut pg_sys::FormData_pg_proc = pg_sys::GETSTRUCT(tuple).cast();
        let owner = (*form).proowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Returns the name of a schema, quoted for SQL.
pub fn quoted_schema(schema: pg_sys::Oid) -> Option<String> {
    // SAFETY: both functions return null or palloc'ed strings.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() {
            return None;
        }
        Some(CStr::from_ptr(pg_sys::quote_identifier(name)).to_string_lossy().into_owned())
    }
}
