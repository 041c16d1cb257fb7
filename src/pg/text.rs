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

/// A name of the server's, cut at its length, in the current memory context.
pub fn name(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: palloc returns a whole NameData or raises; namestrcpy fills and terminates it.
    unsafe {
        let name = pg_sys::palloc(size_of::<pg_sys::NameData>()).cast::<pg_sys::NameData>();
        pg_sys::namestrcpy(name, text.as_ptr());
        pg_sys::Datum::from(name)
    }
}

/// A text of bytes that are in the server's encoding.
pub fn write_bytes(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: as in `write`.
    unsafe {
        pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32))
    }
}

/// All 676 texts of two capitals, each a varlena of six bytes in eight.
static CAPITALS: [u64; 676] = {
    let header = if cfg!(target_endian = "big") { 6u32.to_ne_bytes() } else { (6u32 << 2).to_ne_bytes() };
    let mut texts = [0; 676];
    let mut n = 0;
    while n < 676 {
        let (first, second) = (b'A' + (n / 26) as u8, b'A' + (n % 26) as u8);
        texts[n] = u64::from_ne_bytes([header[0], header[1], header[2], header[3], first, second, 0, 0]);
        n += 1;
    }
    texts
};

/// A text of two letters A to Z, which every lookup of a country returns: made once, never freed.
pub fn two_capitals(letters: [u8; 2]) -> pg_sys::Datum {
    match letters.map(|letter| usize::from(letter.wrapping_sub(b'A'))) {
        [first @ 0..26, second @ 0..26] => pg_sys::Datum::from(&raw const CAPITALS[first * 26 + second]),
        _ => write(&String::from_utf8_lossy(&letters)),
    }
}

/// A text that outlives its memory context.
pub fn keep(text: &str) -> Kept {
    // SAFETY: `write` makes a plain varlena.
    unsafe { Kept::copy(write(text)) }
}

/// Whether the database's texts are UTF-8.
pub fn is_utf8() -> bool {
    // SAFETY: reads a backend-wide static.
    unsafe { pg_sys::GetDatabaseEncoding() as u32 == pg_sys::pg_enc::PG_UTF8 }
}

/// What the database's encoding can hold of a text: everything in UTF-8 (and in SQL_ASCII, which checks nothing),
/// else ASCII with '?' for the rest. An organisation's name with an accent must not fail a session's insert in a
/// LATIN1 database.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || holds_everything() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect())
    }
}

fn holds_everything() -> bool {
    // SAFETY: GetDatabaseEncoding only reads a backend-wide static.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() } as u32;
    encoding == pg_sys::pg_enc::PG_UTF8 || encoding == pg_sys::pg_enc::PG_SQL_ASCII
}

/// A name of unknown encoding, such that two names stay two: what is no UTF-8, or nothing that this database's encoding can
/// hold, byte by byte as `\xE9`.
pub fn distinct(name: &[u8]) -> String {
    let holds_everything = holds_everything();
    let (mut text, mut bytes) = (String::with_capacity(name.len()), [0; 4]);
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_ascii() || holds_everything {
                text.push(char);
            } else {
                push_bytes(&mut text, char.encode_utf8(&mut bytes).as_bytes());
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
}

/// The value of a setting, without surrounding blanks; `None` when nothing is left.
pub fn setting(value: Option<std::ffi::CString>) -> Option<String> {
    value.map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}

/// The string behind a C pointer of the server's, or `None` for a null pointer.
///
/// # Safety
/// `pointer` must be null or point to a NUL-terminated string that outlives the returned reference.
pub unsafe fn from_c<'a>(pointer: *const std::ffi::c_char) -> Option<Cow<'a, str>> {
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy())
}
