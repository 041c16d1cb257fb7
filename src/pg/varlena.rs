//! Values of variable length (varlenas). This module writes such values, and makes copies that outlive the memory context in
//! which the original value was made.

use std::marker::PhantomData;

use pgrx::pg_sys;

use super::value::{Jsonb, SqlType, Text, ToSql, Typed};

/// Writes a varlena into the current memory context. The payload consists of all `parts` in order.
pub(super) fn write(parts: &[&[u8]]) -> pg_sys::Datum {
    // SAFETY: palloc returns the requested number of writable bytes, or raises an error.
    unsafe {
        let start = pg_sys::palloc(size_of_parts(parts)).cast::<u8>();
        fill(start, parts);
        pg_sys::Datum::from(start)
    }
}

fn size_of_parts(parts: &[&[u8]]) -> usize {
    pg_sys::VARHDRSZ + parts.iter().map(|part| part.len()).sum::<usize>()
}

/// Writes the header and the payload of a varlena.
///
/// # Safety
/// At least [`size_of_parts`] bytes from `start` on must be writable.
unsafe fn fill(start: *mut u8, parts: &[&[u8]]) {
    // SAFETY: as the caller promises.
    unsafe {
        pgrx::varlena::set_varsize_4b(start.cast(), size_of_parts(parts) as i32);
        let mut to = start.add(pg_sys::VARHDRSZ);
        for part in parts {
            std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
            to = to.add(part.len());
        }
    }
}

/// Returns the bytes of a varlena in their stored form, which may be compressed or toasted. If the value is in the row itself,
/// the bytes do not include the header.
///
/// # Safety
/// The varlena must be valid, and must outlive the returned bytes.
pub(super) unsafe fn stored<'a>(varlena: *const pg_sys::varlena) -> &'a [u8] {
    use pgrx::varlena::{varatt_is_1b_e, vardata_any, varsize_any, varsize_any_exhdr};
    // SAFETY: the caller promises that the varlena is valid. If the value is toasted, the whole pointer to it is read.
    unsafe {
        let (start, length) = if varatt_is_1b_e(varlena) {
            (varlena.cast(), varsize_any(varlena))
        } else {
            (vardata_any(varlena), varsize_any_exhdr(varlena))
        };
        std::slice::from_raw_parts(start.cast(), length)
    }
}

/// A copy of a value of variable length, in memory that Rust allocates. The copy has the alignment of PostgreSQL's varlenas.
pub struct OwnedVarlena<T = Jsonb> {
    words: Box<[u64]>,
    of: PhantomData<T>,
}

impl<T> Clone for OwnedVarlena<T> {
    fn clone(&self) -> Self {
        OwnedVarlena { words: self.words.clone(), of: PhantomData }
    }
}

/// Types whose values are varlenas.
pub trait Varlena: SqlType {}

impl Varlena for Jsonb {}
impl Varlena for Text {}

impl<T: Varlena> OwnedVarlena<T> {
    /// Copies a plain or toasted varlena.
    ///
    /// # Safety
    /// `datum` must be a valid pointer to a varlena of the type `T`.
    pub(super) unsafe fn copy(datum: pg_sys::Datum) -> OwnedVarlena<T> {
        // SAFETY: detoasting returns a varlena whose header of four bytes holds the size. The box is at least as large as the
        // varlena.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let size = pgrx::varlena::varsize_any(plain);
            let mut words = vec![0u64; size.div_ceil(8)].into_boxed_slice();
            std::ptr::copy_nonoverlapping(plain.cast::<u8>(), words.as_mut_ptr().cast::<u8>(), size);
            OwnedVarlena { words, of: PhantomData }
        }
    }

    /// Makes a varlena with this payload. The payload must be that of a value of type `T`.
    pub(super) fn from_payload(payload: &[u8]) -> OwnedVarlena<T> {
        let mut words = vec![0u64; size_of_parts(&[payload]).div_ceil(8)].into_boxed_slice();
        // SAFETY: the box holds at least this number of bytes.
        unsafe { fill(words.as_mut_ptr().cast(), &[payload]) }
        OwnedVarlena { words, of: PhantomData }
    }

    /// Returns the datum, which is valid while `self` exists.
    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words.as_ptr())
    }

    /// Returns its size in bytes.
    pub fn size(&self) -> usize {
        self.words.len() * 8
    }

    /// Writes the value into the current memory context.
    pub(super) fn write(&self) -> pg_sys::Datum {
        // SAFETY: the words hold a plain varlena. palloc returns as many bytes as the varlena has, or raises an error.
        unsafe {
            let size = pgrx::varlena::varsize_any(self.words.as_ptr().cast());
            let copy = pg_sys::palloc(size).cast::<u8>();
            std::ptr::copy_nonoverlapping(self.words.as_ptr().cast::<u8>(), copy, size);
            pg_sys::Datum::from(copy)
        }
    }
}

impl<T: Varlena> Typed<T> {
    /// Returns a copy of the value. The copy outlives the memory context of the value.
    pub fn into_owned(self) -> Option<OwnedVarlena<T>> {
        // SAFETY: the type guarantees a varlena.
        self.datum().map(|datum| unsafe { OwnedVarlena::copy(datum) })
    }
}

impl<T: Varlena> ToSql<T> for &OwnedVarlena<T> {
    fn to_sql(self) -> Typed<T> {
        Typed::made(self.write())
    }
}
