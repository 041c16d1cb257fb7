//! SQL types, and values of them in server memory.
//!
//! [`ToSql::to_sql`] makes a value of an SQL type only from the Rust types that fit this SQL type ([`super::conversion`]). So a
//! datum of one type cannot be passed as a value of another type. If a value is stored by reference, it is in the memory
//! context that was current when it was made. Such a value stays valid until this memory context is reset or deleted.

use std::ffi::c_char;
use std::marker::PhantomData;

use pgrx::pg_sys;

/// A type of the server.
pub trait SqlType: 'static {
    /// The name in the headers of `sql/queries/`.
    const NAME: &'static str;
    #[doc(hidden)]
    const OID: pg_sys::Oid;
}

/// A type that has an array type.
pub trait Element: SqlType {
    /// The name of the array type.
    const ARRAY: &'static str;
    #[doc(hidden)]
    const ARRAY_OID: pg_sys::Oid;
    /// `typlen`, `typbyval` and `typalign` of pg_type.
    #[doc(hidden)]
    const LAYOUT: (i32, bool, u8);
}

/// A one-dimensional array.
pub struct Array<T>(PhantomData<T>);

impl<T: Element> SqlType for Array<T> {
    const NAME: &'static str = T::ARRAY;
    const OID: pg_sys::Oid = T::ARRAY_OID;
}

macro_rules! sql_types {
    ($($(#[$doc:meta])* $type:ident = $name:literal, $oid:ident, $array:ident, $layout:expr;)*) => {$(
        $(#[$doc])*
        pub struct $type;

        impl SqlType for $type {
            const NAME: &'static str = $name;
            const OID: pg_sys::Oid = pg_sys::$oid;
        }

        impl Element for $type {
            const ARRAY: &'static str = concat!($name, "[]");
            const ARRAY_OID: pg_sys::Oid = pg_sys::$array;
            const LAYOUT: (i32, bool, u8) = $layout;
        }
    )*};
}

sql_types! {
    Text = "text", TEXTOID, TEXTARRAYOID, (-1, false, b'i');
    Name = "name", NAMEOID, NAMEARRAYOID, (64, false, b'c');
    Boolean = "boolean", BOOLOID, BOOLARRAYOID, (1, true, b'c');
    Integer = "integer", INT4OID, INT4ARRAYOID, (4, true, b'i');
    Bigint = "bigint", INT8OID, INT8ARRAYOID, (8, true, b'd');
    Float = "float8", FLOAT8OID, FLOAT8ARRAYOID, (8, true, b'd');
    Timestamptz = "timestamptz", TIMESTAMPTZOID, TIMESTAMPTZARRAYOID, (8, true, b'd');
    /// Days since 2000-01-01.
    Date = "date", DATEOID, DATEARRAYOID, (4, true, b'i');
    Inet = "inet", INETOID, INETARRAYOID, (-1, false, b'i');
    Cidr = "cidr", CIDROID, CIDRARRAYOID, (-1, false, b'i');
    Tid = "tid", TIDOID, TIDARRAYOID, (6, false, b's');
    Jsonb = "jsonb", JSONBOID, JSONBARRAYOID, (-1, false, b'i');
    Oid = "oid", OIDOID, OIDARRAYOID, (4, true, b'i');
    Regclass = "regclass", REGCLASSOID, REGCLASSARRAYOID, (4, true, b'i');
    Xid = "xid", XIDOID, XIDARRAYOID, (4, true, b'i');
}

/// Types whose values are stored like text.
pub(super) const TEXT_LIKE: [pg_sys::Oid; 3] = [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID];

/// A value of the SQL type `T`, or null.
pub struct Typed<T> {
    datum: Option<pg_sys::Datum>,
    of: PhantomData<T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Typed<T> {}

impl<T: SqlType> Typed<T> {
    pub const NULL: Typed<T> = Typed { datum: None, of: PhantomData };

    pub fn is_null(self) -> bool {
        self.datum.is_none()
    }

    pub(super) fn datum(self) -> Option<pg_sys::Datum> {
        self.datum
    }

    pub(super) fn made(datum: pg_sys::Datum) -> Typed<T> {
        Typed { datum: Some(datum), of: PhantomData }
    }
}

/// A value of any type, for rows and for the results of functions.
#[derive(Clone, Copy)]
pub struct Value {
    pub(super) datum: Option<pg_sys::Datum>,
    pub(super) type_oid: pg_sys::Oid,
}

impl Value {
    pub const NULL: Value = Value { datum: None, type_oid: pg_sys::InvalidOid };

    pub(super) fn composite(row: pg_sys::Datum) -> Value {
        Value { datum: Some(row), type_oid: pg_sys::RECORDOID }
    }

    pub fn is_null(self) -> bool {
        self.datum.is_none()
    }

    /// Returns the datum, or 0 for null.
    pub(super) fn datum_or_zero(self) -> pg_sys::Datum {
        self.datum.unwrap_or(pg_sys::Datum::from(0))
    }

    /// Returns whether a column of this type accepts the value.
    pub(super) fn fits(self, type_oid: pg_sys::Oid) -> bool {
        self.is_null()
            || self.type_oid == type_oid
            || TEXT_LIKE.contains(&self.type_oid) && TEXT_LIKE.contains(&type_oid)
    }
}

impl<T: SqlType> From<Typed<T>> for Value {
    fn from(typed: Typed<T>) -> Value {
        Value { datum: typed.datum, type_oid: T::OID }
    }
}

/// Returns a value of the type `T` as a [`Value`].
pub fn value<T: SqlType>(value: impl ToSql<T>) -> Value {
    value.to_sql().into()
}

/// A Rust type whose values can be converted to the SQL type `T`. The result is in the current memory context.
pub trait ToSql<T: SqlType> {
    fn to_sql(self) -> Typed<T>;
}

impl<T: SqlType> ToSql<T> for Typed<T> {
    fn to_sql(self) -> Typed<T> {
        self
    }
}

impl<T: SqlType, V: ToSql<T>> ToSql<T> for Option<V> {
    fn to_sql(self) -> Typed<T> {
        self.map_or(Typed::NULL, V::to_sql)
    }
}

/// Makes the values of a row. In `row![Text: name, Bigint: asn]`, the name before each value is its SQL type.
#[macro_export]
macro_rules! row {
    ($($type:ident: $value:expr),* $(,)?) => {
        vec![$($crate::pg::value::value::<$crate::pg::value::$type>($value)),*]
    };
}

/// The elements of an array.
pub struct Elements<I>(I);

/// Makes an array of these elements; `None` elements are null.
pub fn array<I: IntoIterator>(elements: I) -> Elements<I> {
    Elements(elements)
}

impl<T: Element, I: IntoIterator> ToSql<Array<T>> for Elements<I>
where
    I::Item: ToSql<T>,
{
    fn to_sql(self) -> Typed<Array<T>> {
        let (mut datums, mut nulls) = (Vec::new(), Vec::new());
        for element in self.0 {
            let datum = element.to_sql().datum;
            nulls.push(datum.is_none());
            datums.push(datum.unwrap_or(pg_sys::Datum::from(0)));
        }
        let (length, by_value, align) = T::LAYOUT;
        let (mut count, mut lower) = (datums.len() as i32, 1);
        // SAFETY: both vectors hold `count` entries. The datums are of the element type, and construct_md_array copies them.
        Typed::made(unsafe {
            pg_sys::Datum::from(pg_sys::construct_md_array(
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
                1,
                &mut count,
                &mut lower,
                T::OID,
                length,
                by_value,
                align as c_char,
            ))
        })
    }
}

/// The types of a statement's parameters, in order.
pub trait Parameters: 'static {
    const NAMES: &'static [&'static str];
    #[doc(hidden)]
    const OIDS: &'static [pg_sys::Oid];
}

/// Values for a statement's parameters.
pub trait Arguments<P: Parameters> {
    /// An array with one value for each parameter. The array is on the stack, without an allocation, because the commit of a
    /// transaction that inserts honeypot sessions writes rows with such arrays.
    #[doc(hidden)]
    type Written: AsRef<[Value]>;
    #[doc(hidden)]
    fn write(self) -> Self::Written;
}

/// How a result's column is read.
pub trait ColumnType: 'static {
    type Value<'r>;
    /// The OIDs of this type, and of all types whose values are stored in the same form.
    #[doc(hidden)]
    const TYPES: &'static [pg_sys::Oid];
    /// # Safety
    /// The datum has one of the types in `TYPES`, and stays valid for `'r`.
    #[doc(hidden)]
    unsafe fn read<'r>(datum: pg_sys::Datum) -> Option<Self::Value<'r>>;
}

/// The columns of a statement's result, in order.
pub trait Columns: 'static {
    type Row<'r>;
    #[doc(hidden)]
    const TYPES: &'static [&'static [pg_sys::Oid]];
    /// # Safety
    /// `column` takes the number of a column, counted from 1, and returns the datum of this column. The datum has one of the
    /// types that `TYPES` lists for the column, and stays valid for `'r`.
    #[doc(hidden)]
    unsafe fn read<'r>(column: impl Fn(i32) -> Option<pg_sys::Datum>) -> Self::Row<'r>;
}

/// A column of type text, varchar or char, in the server's encoding.
pub struct Bytes;

macro_rules! tuples {
    ($(($($type:ident $argument:ident $number:literal),*);)*) => {$(
        impl<$($type: SqlType),*> Parameters for ($($type,)*) {
            const NAMES: &'static [&'static str] = &[$($type::NAME),*];
            const OIDS: &'static [pg_sys::Oid] = &[$($type::OID),*];
        }

        #[allow(non_camel_case_types, reason = "the macro uses each name for a type parameter and for a variable")]
        impl<$($type: SqlType, $argument: ToSql<$type>),*> Arguments<($($type,)*)> for ($($argument,)*) {
            type Written = [Value; <[i32]>::len(&[$($number),*])];

            fn write(self) -> Self::Written {
                let ($($argument,)*) = self;
                [$(value::<$type>($argument)),*]
            }
        }

        impl<$($type: ColumnType),*> Columns for ($($type,)*) {
            type Row<'r> = ($(Option<$type::Value<'r>>,)*);
            const TYPES: &'static [&'static [pg_sys::Oid]] = &[$($type::TYPES),*];
            #[allow(unused_variables, clippy::unused_unit)]
            unsafe fn read<'r>(column: impl Fn(i32) -> Option<pg_sys::Datum>) -> Self::Row<'r> {
                // SAFETY: as the caller promises.
                ($(column($number).and_then(|datum| unsafe { $type::read(datum) }),)*)
            }
        }
    )*};
}

tuples! {
    ();
    (A a 1);
    (A a 1, B b 2);
    (A a 1, B b 2, C c 3);
    (A a 1, B b 2, C c 3, D d 4);
    (A a 1, B b 2, C c 3, D d 4, E e 5);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10, K k 11);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10, K k 11, L l 12);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10, K k 11, L l 12, M m 13);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10, K k 11, L l 12, M m 13, N n 14);
    (A a 1, B b 2, C c 3, D d 4, E e 5, F f 6, G g 7, H h 8, I i 9, J j 10, K k 11, L l 12, M m 13, N n 14, O o 15);
}

/// Returns true if the header of a statement declares these parameters. The header must have one line `-- $1 text: description`
/// for each parameter, in the same order.
pub(super) const fn declares(statement: &str, parameters: &[&str]) -> bool {
    let text = statement.as_bytes();
    let (mut at, mut found) = (0, 0);
    while at < text.len() {
        let is_parameter = begins_with(text, at, b"-- $");
        if is_parameter {
            let mut number = 0;
            at += 4;
            while at < text.len() && text[at].is_ascii_digit() {
                number = 10 * number + (text[at] - b'0') as usize;
                at += 1;
            }
            if number != found + 1 || found >= parameters.len() || !begins_with(text, at, b" ") {
                return false;
            }
            let name = parameters[found].as_bytes();
            if !begins_with(text, at + 1, name) || !begins_with(text, at + 1 + name.len(), b":") {
                return false;
            }
            found += 1;
        }
        while at < text.len() && text[at] != b'\n' {
            at += 1;
        }
        at += 1;
    }
    found == parameters.len()
}

const fn begins_with(text: &[u8], at: usize, wanted: &[u8]) -> bool {
    let mut n = 0;
    while n < wanted.len() {
        if at + n >= text.len() || text[at + n] != wanted[n] {
            return false;
        }
        n += 1;
    }
    true
}
