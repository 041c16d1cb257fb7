//! `text` datums.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::value::Text;
use super::varlena::OwnedVarlena;

/// Returns the bytes of a text-like datum (text, varchar, bpchar). Copies the bytes only if they were compressed or stored out
/// of line.
///
/// # Safety
/// `datum` must be a valid pointer to a varlena that outlives the returned slice.
pub(super) unsafe fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller promises that the varlena is valid. A detoasted copy is in the current memory context.
    unsafe {
        let plain = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::slice::from_raw_parts(
            pgrx::varlena::vardata_any(plain).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(plain),
        )
    }
}

/// Writes a text datum into the current memory context, in the database's encoding.
pub(super) fn write(text: &str) -> pg_sys::Datum {
    write_bytes(&to_server(text))
}

/// Writes a value of type name into the current memory context. Truncates the text to the server's limit for names.
pub(super) fn name(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: palloc returns memory for a complete NameData, or raises an error. namestrcpy fills and terminates the name.
    unsafe {
        let name = pg_sys::palloc(size_of::<pg_sys::NameData>()).cast::<pg_sys::NameData>();
        pg_sys::namestrcpy(name, text.as_ptr());
        pg_sys::Datum::from(name)
    }
}

/// Returns a text as an SQL literal. The text and the literal are in the server's encoding.
pub fn quoted(text: &[u8]) -> Vec<u8> {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: the argument is NUL-terminated. The result is a NUL-terminated text in the current memory context.
    unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(text.as_ptr())).to_bytes().to_vec() }
}

/// Writes a text from bytes in the server's encoding.
pub(super) fn write_bytes(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: as in `write`.
    unsafe {
        pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32))
    }
}

/// All 676 texts of two capital letters. Each text is a varlena of six bytes, padded to eight bytes.
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

/// Returns a text of two letters A to Z. Every lookup of a country returns such a text. Therefore these texts are made once and
/// never freed.
pub(super) fn two_capitals(letters: [u8; 2]) -> pg_sys::Datum {
    match letters.map(|letter| usize::from(letter.wrapping_sub(b'A'))) {
        [first @ 0..26, second @ 0..26] => pg_sys::Datum::from(&raw const CAPITALS[first * 26 + second]),
        _ => write(&String::from_utf8_lossy(&letters)),
    }
}

/// Returns a copy of a text. The copy outlives the memory context of the text.
pub fn owned(text: &str) -> OwnedVarlena<Text> {
    // SAFETY: `write` makes a plain varlena.
    unsafe { OwnedVarlena::copy(write(text)) }
}

/// Converts a text to the database's encoding, with the server's own conversion. A character that the encoding does not have
/// becomes `?`, because the name of an organisation must not make the INSERT of a honeypot session fail. SQL_ASCII accepts
/// every byte unchanged. Must be called inside a transaction, because the conversion is looked up in a catalog.
pub fn to_server(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() || holds_everything() {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut converted = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let done = convert(rest.as_bytes(), Direction::ToServer, &mut converted);
        let (_, left) = rest.split_at_checked(done).unwrap_or((rest, ""));
        let mut characters = left.chars();
        if let Some(unknown) = characters.next() {
            // If the catalog has no conversion, this code converts every character.
            converted.push(if unknown.is_ascii() { unknown as u8 } else { b'?' });
        }
        rest = characters.as_str();
    }
    Cow::Owned(converted)
}

/// Converts bytes in the database's encoding to a text. Bytes that cannot be converted become U+FFFD. Must be called inside a
/// transaction, like [`to_server`].
pub fn from_server(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_ascii() || holds_everything() {
        return String::from_utf8_lossy(bytes);
    }
    let mut converted = Vec::with_capacity(2 * bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let done = convert(rest, Direction::FromServer, &mut converted).min(rest.len());
        rest = match rest[done..].split_first() {
            Some((byte, left)) => {
                let unknown = if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER };
                converted.extend_from_slice(unknown.encode_utf8(&mut [0; 4]).as_bytes());
                left
            }
            None => break,
        };
    }
    Cow::Owned(String::from_utf8_lossy(&converted).into_owned())
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    FromServer,
}

thread_local! {
    /// The conversions to this backend's encoding and from it. A conversion that does not exist is InvalidOid.
    static CONVERSIONS: OnceCell<[pg_sys::Oid; 2]> = const { OnceCell::new() };
}

/// The number of bytes that one call of the server's function converts. One byte becomes at most four bytes.
const CONVERTED_AT_ONCE: usize = 8192;

/// Converts `from` and appends the result to `to`. Stops before a character that cannot be converted, and before a NUL. Returns
/// the number of bytes of `from` that were converted.
fn convert(from: &[u8], direction: Direction, to: &mut Vec<u8>) -> usize {
    let conversion = CONVERSIONS.with(|known| known.get_or_init(conversions)[direction as usize]);
    if conversion == pg_sys::InvalidOid {
        return 0;
    }
    let (utf8, server) = (pg_sys::pg_enc::PG_UTF8 as c_int, encoding());
    let (source, target) = match direction {
        Direction::ToServer => (utf8, server),
        Direction::FromServer => (server, utf8),
    };
    let mut done = 0;
    let mut buffer = vec![0_u8; 4 * CONVERTED_AT_ONCE + 1];
    while done < from.len() {
        let mut part = from[done..].to_vec();
        part.truncate(CONVERTED_AT_ONCE);
        // SAFETY: the conversion is one of the server's own, and it converts between these two encodings. The source and the
        // target have the given lengths, and the target ends with a NUL. The conversion does not write to the source.
        let read = unsafe {
            pg_sys::pg_do_encoding_conversion_buf(
                conversion,
                source,
                target,
                part.as_mut_ptr(),
                part.len() as c_int,
                buffer.as_mut_ptr(),
                buffer.len() as c_int,
                true,
            )
        };
        let written = buffer.iter().position(|byte| *byte == 0).unwrap_or(0);
        to.extend_from_slice(&buffer[..written]);
        let read = usize::try_from(read).unwrap_or(0);
        done += read;
        // A part may end in the middle of a character. The next part then begins with this character.
        if read == 0 || (read < part.len() && part.len() < CONVERTED_AT_ONCE) {
            break;
        }
    }
    done
}

/// Returns the server's own conversions. A role may create a default conversion in a schema of its search_path. Such a
/// conversion is not used.
fn conversions() -> [pg_sys::Oid; 2] {
    let (utf8, server) = (pg_sys::pg_enc::PG_UTF8 as i32, encoding());
    let catalog = pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
    [(utf8, server), (server, utf8)].map(|(from, to)| {
        // SAFETY: FindDefaultConversion looks in the system caches and needs a transaction. It returns InvalidOid for a missing
        // conversion. The guard turns an ERROR of the server into a panic, so that the ERROR does not pass a Rust frame.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| FindDefaultConversion(catalog, from, to)) }
    })
}

unsafe extern "C-unwind" {
    /// src/include/catalog/pg_conversion.h; pgrx has no binding.
    fn FindDefaultConversion(name_space: pg_sys::Oid, for_encoding: i32, to_encoding: i32) -> pg_sys::Oid;
}

fn encoding() -> c_int {
    // SAFETY: reads a backend-wide static.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

fn holds_everything() -> bool {
    let encoding = encoding() as u32;
    encoding == pg_sys::pg_enc::PG_UTF8 || encoding == pg_sys::pg_enc::PG_SQL_ASCII
}

/// Converts a name of unknown encoding to a text. Different names become different texts: a byte is written in the form `\xE9`
/// if it is not valid UTF-8, or if this database's encoding does not have the character.
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

/// Returns the value of a setting, without surrounding blanks. Returns `None` if the result is empty.
pub fn setting(value: Option<std::ffi::CString>) -> Option<String> {
    value.map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}

/// Returns the string to which a C pointer of the server points. Returns `None` for a null pointer.
///
/// # Safety
/// `pointer` must be null or point to a NUL-terminated string that outlives the returned reference.
pub(super) unsafe fn from_c<'a>(pointer: *const std::ffi::c_char) -> Option<Cow<'a, str>> {
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy())
}
