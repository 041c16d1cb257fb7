//! Datums that outlive the memory context they were made in.

use pgrx::pg_sys;

/// A copy of a variable-length datum in Rust's memory, aligned as PostgreSQL wants its varlenas.
#[derive(Clone)]
pub struct Kept {
    words: Box<[u64]>,
}

impl Kept {
    /// Copies a plain or toasted varlena.
    ///
    /// # Safety
    /// `datum` must be a valid pointer to a varlena.
    pub unsafe fn copy(datum: pg_sys::Datum) -> Kept {
        // SAFETY: detoasting yields a varlena whose four-byte header holds its size; the box is at least as large.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let size = pgrx::varlena::varsize_any(plain);
            let mut words = vec![0u64; size.div_ceil(8)].into_boxed_slice();
            std::ptr::copy_nonoverlapping(plain.cast::<u8>(), words.as_mut_ptr().cast::<u8>(), size);
            Kept { words }
        }
    }

    /// A varlena with this payload.
    pub fn from_payload(payload: &[u8]) -> Kept {
        let size = pg_sys::VARHDRSZ + payload.len();
        let mut words = vec![0u64; size.div_ceil(8)].into_boxed_slice();
        // SAFETY: the box holds at least `size` bytes.
        unsafe {
            let start = words.as_mut_ptr().cast::<u8>();
            pgrx::varlena::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(payload.as_ptr(), start.add(pg_sys::VARHDRSZ), payload.len());
        }
        Kept { words }
    }

    /// The datum, valid as long as `self`.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words.as_ptr())
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.words.len() * 8
    }
}
