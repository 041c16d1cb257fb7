//! Reads arrays. Arrays are written by [`super::value::array`].

use pgrx::pg_sys;

use super::value::{Element, Inet};

/// Returns the elements of an `inet[]` with any number of dimensions. A null element becomes `None`.
///
/// # Safety
/// `datum` must be an `inet[]` that is not null. The returned datums point into a detoasted copy in the current memory context.
pub(super) unsafe fn read_inets(datum: pg_sys::Datum) -> Vec<Option<pg_sys::Datum>> {
    // SAFETY: as the caller promises.
    unsafe { elements::<Inet>(datum) }
}

/// Returns the elements of an array with any number of dimensions. A null element becomes `None`.
///
/// # Safety
/// `datum` must be an array of `T` that is not null. The returned datums point into a detoasted copy in the current memory
/// context.
pub(super) unsafe fn elements<T: Element>(datum: pg_sys::Datum) -> Vec<Option<pg_sys::Datum>> {
    let (length, by_value, align) = T::LAYOUT;
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: deconstruct_array fills `count` entries of both arrays.
    unsafe {
        pg_sys::deconstruct_array(
            pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast(),
            T::OID,
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
