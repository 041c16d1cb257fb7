//! One-dimensional arrays as arguments of our own statements, and `inet[]` as an argument of SQL functions.

use std::borrow::Borrow;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::inet;

/// Element types that we pass to statements.
#[derive(Clone, Copy)]
pub enum Element {
    Inet,
    Cidr,
    Tid,
    Integer,
    Bigint,
    Boolean,
    Text,
    Jsonb,
    Timestamptz,
    Regclass,
}

impl Element {
    /// (type, length, by value, alignment) as in pg_type.
    fn layout(self) -> (pg_sys::Oid, i32, bool, u8) {
        match self {
            Element::Inet => (pg_sys::INETOID, -1, false, b'i'),
            Element::Cidr => (pg_sys::CIDROID, -1, false, b'i'),
            Element::Tid => (pg_sys::TIDOID, 6, false, b's'),
            Element::Boolean => (pg_sys::BOOLOID, 1, true, b'c'),
            Element::Integer => (pg_sys::INT4OID, 4, true, b'i'),
            Element::Bigint => (pg_sys::INT8OID, 8, true, b'd'),
            Element::Text => (pg_sys::TEXTOID, -1, false, b'i'),
            Element::Jsonb => (pg_sys::JSONBOID, -1, false, b'i'),
            Element::Regclass => (pg_sys::REGCLASSOID, 4, true, b'i'),
            Element::Timestamptz => (pg_sys::TIMESTAMPTZOID, 8, true, b'd'),
        }
    }
}

/// An `inet[]` in the current memory context.
pub fn inets(addresses: impl IntoIterator<Item = impl Borrow<Address>>) -> pg_sys::Datum {
    write(Element::Inet, addresses.into_iter().map(|address| Some(inet::write(*address.borrow()))))
}

/// A `bigint[]` in the current memory context.
pub fn bigints(numbers: impl IntoIterator<Item = impl Borrow<i64>>) -> pg_sys::Datum {
    write(Element::Bigint, numbers.into_iter().map(|number| Some(pg_sys::Datum::from(*number.borrow()))))
}

/// An array in the current memory context.
pub fn write(element: Element, values: impl IntoIterator<Item = Option<pg_sys::Datum>>) -> pg_sys::Datum {
    let (mut datums, mut nulls) = (Vec::new(), Vec::new());
    for value in values {
        nulls.push(value.is_none());
        datums.push(value.unwrap_or(pg_sys::Datum::from(0)));
    }
    let (oid, length, by_value, align) = element.layout();
    let (mut count, mut lower) = (datums.len() as i32, 1);
    // SAFETY: both vectors hold `count` entries of the element type; the result is a copy.
    unsafe {
        pg_sys::Datum::from(pg_sys::construct_md_array(
            datums.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &mut count,
            &mut lower,
            oid,
            length,
            by_value,
            align as std::ffi::c_char,
        ))
    }
}

/// The elements of an `inet[]` of any number of dimensions; `None` for null elements.
///
/// # Safety
/// `datum` must be a non-null `inet[]`; the datums point into a detoasted copy in the current memory context.
pub unsafe fn read_inets(datum: pg_sys::Datum) -> Vec<Option<pg_sys::Datum>> {
    let (oid, length, by_value, align) = Element::Inet.layout();
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: deconstruct_array fills `count` entries of both arrays.
    unsafe {
        pg_sys::deconstruct_array(
            pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast(),
            oid,
            length,
            by_value,
            align as std::ffi::c_char,
            &mut values,
            &mut nulls,
            &mut count,
        );
        (0..count as usize).map(|i| (!*nulls.add(i)).then(|| *values.add(i))).collect()
    }
}
