//! `text` datums.

use std::borrow::Cow;
use std::ffi::CStr;

use pgrx::pg_sys;

use super::kept::Kept;

/// The bytes of a text-like datum (text, varchar, bpchar), copied only when they were compressed or out of line.
///
/// # Safety
/// `datum` must be a valid pointer to a varlena that outlives the returned slice.
pub unsafe fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller vouches for the varlena; a detoasted copy lives in the current memory context.
    unsafe {
        let plain = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::slice::from_raw_parts(
            pgrx::varlena::vardata_any(plain).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(plain),
        )
    }
}

/// A text in the current memory context.
pub fn write(text: &str) -> pg_sys::Datum {
    let text = storable(text);
    // SAFETY: cstring_to_text_with_len copies `len` bytes.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), text.len() as i32)) }
}

/// A text that outlives its memory context.
pub fn keep(text: &str) -> Kept {
    // SAFETY: `write` makes a plain varlena.
    unsafe { Kept::copy(write(text)) }
}

/// What the database's encoding can hold of a text: everything in UTF-8 (and in SQL_ASCII, which checks nothing),
/// else ASCII with '?' for the rest. An organisation's name with an accent must not fail a session's insert in a
/// LATIN1 database.
pub fn storable(text: &str) -> Cow<'_, str> {
    // SAFETY: GetDatabaseEncoding only reads a backend-wide static.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() } as u32;
    if encoding == pg_sys::pg_enc::PG_UTF8 || encoding == pg_sys::pg_enc::PG_SQL_ASCII || text.is_ascii() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect())
    }
}

/// The string behind a C pointer of the server's, or `None` for a null pointer.
///
/// # Safety
/// `pointer` must be null or point to a NUL-terminated string that outlives the returned reference.
pub unsafe fn from_c<'a>(pointer: *const std::ffi::c_char) -> Option<Cow<'a, str>> {
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy())
}
