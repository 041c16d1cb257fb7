//! Values that outlive the memory context in which they were made.

use std::marker::PhantomData;

use pgrx::pg_sys;

use super::value::{Jsonb, SqlType, Text, ToSql, Typed};

/// A copy of a value of variable length in Rust's memory, with the alignment of PostgreSQL's varlenas.
pub struct Kept<T = Jsonb> {
    words: Box<[u64]>,
    of: PhantomData<T>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Kept { words: self.words.clone(), of: PhantomData }
    }
}

/// Types whose values are varlenas.
pub trait Varlena: SqlType {}

impl Varlena for Jsonb {}
impl Varlena for Text {}

impl<T: Varlena> Kept<T> {
    /// Copies a plain or toasted varlena.
    ///
    /// # Safety
    /// `datum` must be a valid pointer to a varlena of the type `T`.
    pub(super) unsafe fn copy(datum: pg_sys::Datum) -> Kept<T> {
        // SAFETY: detoasting yields a varlena whose four-byte header holds its size; the box is at least as large.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let size = pgrx::varlena::varsize_any(plain);
            let mut words = vec![0u64; size.div_ceil(8)].into_boxed_slice();
            std::ptr::copy_nonoverlapping(plain.cast::<u8>(), words.as_mut_ptr().cast::<u8>(), size);
            Kept { words, of: PhantomData }
        }
    }

    /// Makes a varlena with this payload, which must be a payload of the type `T`.
    pub(super) fn from_payload(payload: &[u8]) -> Kept<T> {
        let size = pg_sys::VARHDRSZ + payload.len();
        let mut words = vec![0u64; size.div_ceil(8)].into_boxed_slice();
        // SAFETY: the box holds at least `size` bytes.
        unsafe {
            let start = words.as_mut_ptr().cast::<u8>();
            pgrx::varlena::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(payload.as_ptr(), start.add(pg_sys::VARHDRSZ), payload.len());
        }
        Kept { words, of: PhantomData }
    }

    /// Returns the datum, valid as long as `self`.
    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words.as_ptr())
    }

    /// Returns its size in bytes.
    pub fn size(&self) -> usize {
        self.words.len() * 8
    }

    /// Writes the value into the current memory context.
    pub(super) fn write(&self) -> pg_sys::Datum {
        // SAFETY: the words hold a plain varlena; palloc returns as many bytes or raises.
        unsafe {
            let size = pgrx::varlena::varsize_any(self.words.as_ptr().cast());
            let copy = pg_sys::palloc(size).cast::<u8>();
            std::ptr::copy_nonoverlapping(self.words.as_ptr().cast::<u8>(), copy, size);
            pg_sys::Datum::from(copy)
        }
    }
}

impl<T: Varlena> Typed<T> {
    /// Returns a copy that outlives its memory context.
    pub fn keep(self) -> Option<Kept<T>> {
        // SAFETY: the type guarantees a varlena.
        self.datum().map(|datum| unsafe { Kept::copy(datum) })
    }
}

impl<T: Varlena> ToSql<T> for &Kept<T> {
    fn to_sql(self) -> Typed<T> {
        Typed::made(self.write())
    }
}
