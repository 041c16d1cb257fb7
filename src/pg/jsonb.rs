//! Builds and reads `jsonb` datums in the server's binary form, without conversion to text.

use std::borrow::Cow;
use std::ffi::CStr;
use std::marker::PhantomData;

use pgrx::pg_sys;

use super::subtransaction::contained;
use super::text;
use super::value::{Jsonb, Typed};
use super::varlena::{self, OwnedVarlena};

/// A jsonb object under construction.
pub struct Object {
    state: *mut pg_sys::JsonbParseState,
}

/// Builds an object in the current memory context.
pub fn object(fill: impl FnOnce(&mut Object)) -> Typed<Jsonb> {
    let mut object = Object { state: std::ptr::null_mut() };
    object.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_OBJECT, None);
    fill(&mut object);
    let whole = object.push(pg_sys::JsonbIteratorToken::WJB_END_OBJECT, None);
    // SAFETY: the token that closes the outermost object makes the server return the finished value.
    Typed::made(unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(whole)) })
}

impl Object {
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let value = text::to_server(value);
        self.value(string_value(&value));
    }

    pub fn number(&mut self, key: &str, value: i64) {
        self.key(key);
        // SAFETY: int64_to_numeric allocates in the current memory context.
        let numeric = unsafe { pg_sys::int64_to_numeric(value) };
        self.value(value_of(pg_sys::jbvType::jbvNumeric, |v| v.numeric = numeric));
    }

    /// Adds a finite number. The caller excludes NaN and infinity, which JSON cannot express.
    pub fn float(&mut self, key: &str, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.key(key);
        // SAFETY: float8_numeric takes one float8 datum and returns a numeric datum.
        let numeric = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::float8_numeric, &[pgrx::IntoDatum::into_datum(value)])
        };
        if let Some(numeric) = numeric {
            self.value(value_of(pg_sys::jbvType::jbvNumeric, |v| v.numeric = numeric.cast_mut_ptr()));
        }
    }

    pub fn boolean(&mut self, key: &str, value: bool) {
        self.key(key);
        self.value(value_of(pg_sys::jbvType::jbvBool, |v| v.boolean = value));
    }

    pub fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object)) {
        self.key(key);
        self.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_OBJECT, None);
        fill(self);
        self.push(pg_sys::JsonbIteratorToken::WJB_END_OBJECT, None);
    }

    /// Adds any JSON value from outside the extension. Removes NUL characters from the strings of the value, because the server
    /// cannot store NUL characters.
    pub fn json(&mut self, key: &str, value: &serde_json::Value) {
        self.key(without_nul(key));
        self.nested(pg_sys::JsonbIteratorToken::WJB_VALUE, value);
    }

    /// Adds a value under a key, or an element of an array. The JSON parser limits how deeply values are nested, so it also
    /// limits the depth of this recursion.
    fn nested(&mut self, token: pg_sys::JsonbIteratorToken::Type, value: &serde_json::Value) {
        use serde_json::Value as Json;
        let scalar = match value {
            Json::Null => value_of(pg_sys::jbvType::jbvNull, |_| ()),
            Json::Bool(value) => value_of(pg_sys::jbvType::jbvBool, |v| v.boolean = *value),
            Json::Number(number) => numeric_value(&number.to_string()),
            Json::String(text) => string_value(&without_nul(text)),
            Json::Array(elements) => {
                self.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_ARRAY, None);
                for element in elements {
                    self.nested(pg_sys::JsonbIteratorToken::WJB_ELEM, element);
                }
                self.push(pg_sys::JsonbIteratorToken::WJB_END_ARRAY, None);
                return;
            }
            Json::Object(pairs) => {
                self.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_OBJECT, None);
                for (key, value) in pairs {
                    self.key(without_nul(key));
                    self.nested(pg_sys::JsonbIteratorToken::WJB_VALUE, value);
                }
                self.push(pg_sys::JsonbIteratorToken::WJB_END_OBJECT, None);
                return;
            }
        };
        self.push(token, Some(scalar));
    }

    /// Adds an existing object or array as a value. The bytes of the existing object or array must stay valid until the new
    /// object is finished.
    pub fn nested_container(&mut self, key: &str, container: Container<'_>) {
        self.key(key);
        let size = container.size as i32;
        self.value(value_of(pg_sys::jbvType::jbvBinary, |v| {
            v.binary = pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_4 { len: size, data: container.pointer };
        }));
    }

    /// `key` is in the server's encoding, as every ASCII text is.
    fn key(&mut self, key: impl AsRef<[u8]>) {
        self.push(pg_sys::JsonbIteratorToken::WJB_KEY, Some(string_value(key.as_ref())));
    }

    fn value(&mut self, value: pg_sys::JsonbValue) {
        self.push(pg_sys::JsonbIteratorToken::WJB_VALUE, Some(value));
    }

    fn push(
        &mut self,
        token: pg_sys::JsonbIteratorToken::Type,
        value: Option<pg_sys::JsonbValue>,
    ) -> *mut pg_sys::JsonbValue {
        let mut value = value;
        let pointer = value.as_mut().map_or(std::ptr::null_mut(), |v| v as *mut _);
        // SAFETY: this object owns the parse state, and its methods push the tokens in an order that the grammar allows. The
        // server copies the JsonbValue, but not the bytes of a string. JsonbValueToJsonb reads these bytes later, so
        // `string_value` has copied them to server memory.
        unsafe { pg_sys::pushJsonbValue(&mut self.state, token, pointer) }
    }
}

fn value_of(
    kind: pg_sys::jbvType::Type,
    set: impl FnOnce(&mut pg_sys::JsonbValue__bindgen_ty_1),
) -> pg_sys::JsonbValue {
    let mut value = pg_sys::JsonbValue { type_: kind, ..Default::default() };
    set(&mut value.val);
    value
}

/// Removes NUL characters from a text, because JSON allows such characters and the server does not.
fn without_nul(text: &str) -> Cow<'_, [u8]> {
    if text.contains('\0') {
        Cow::Owned(text::to_server(&text.replace('\0', "")).into_owned())
    } else {
        text::to_server(text)
    }
}

/// Returns a number from its digits.
fn numeric_value(digits: &str) -> pg_sys::JsonbValue {
    let digits = std::ffi::CString::new(digits).unwrap_or_default();
    // SAFETY: numeric_in gets a NUL-terminated text, a type OID that it ignores, and -1, which means no type modifier.
    let numeric = unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::numeric_in,
            &[
                Some(pg_sys::Datum::from(digits.as_ptr())),
                Some(pg_sys::Datum::from(pg_sys::InvalidOid)),
                pgrx::IntoDatum::into_datum(-1_i32),
            ],
        )
    };
    match numeric {
        Some(numeric) => value_of(pg_sys::jbvType::jbvNumeric, |v| v.numeric = numeric.cast_mut_ptr()),
        None => value_of(pg_sys::jbvType::jbvNull, |_| ()),
    }
}

fn string_value(bytes: &[u8]) -> pg_sys::JsonbValue {
    // SAFETY: palloc returns len + 1 writable bytes or raises.
    let copy = unsafe {
        let copy = pg_sys::palloc(bytes.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        copy
    };
    value_of(pg_sys::jbvType::jbvString, |v| {
        v.string =
            pg_sys::JsonbValue__bindgen_ty_1__bindgen_ty_1 { len: bytes.len() as i32, val: copy.cast() };
    })
}

/// A jsonb container (object or array) in server memory.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    pointer: *mut pg_sys::JsonbContainer,
    size: usize,
    lives: PhantomData<&'a [u8]>,
}

/// The value of a key or of an element.
pub enum Value<'a> {
    Null,
    Bool(bool),
    String(Cow<'a, str>),
    Number(Number<'a>),
    Nested(Container<'a>),
}

/// A number in server memory.
#[derive(Clone, Copy)]
pub struct Number<'a> {
    numeric: pg_sys::Numeric,
    lives: PhantomData<&'a [u8]>,
}

impl Number<'_> {
    /// Returns the number as the server writes it.
    pub fn text(self) -> String {
        // SAFETY: the numeric outlives `self`. numeric_out reads it and returns a NUL-terminated string.
        unsafe {
            let numeric = Some(pg_sys::Datum::from(self.numeric));
            let text = pgrx::direct_function_call_as_datum(pg_sys::numeric_out, &[numeric]);
            text.and_then(|text| text::from_c(text.cast_mut_ptr())).unwrap_or_default().into_owned()
        }
    }
}

const ARRAY: u32 = pg_sys::JB_FARRAY;
const OBJECT: u32 = pg_sys::JB_FOBJECT;
const SCALAR: u32 = pg_sys::JB_FSCALAR;
const COUNT: u32 = pg_sys::JB_CMASK;

impl<'a> Container<'a> {
    /// # Safety
    /// `datum` must be a jsonb datum that is not null and stays valid for `'a`. If the datum must be detoasted, the copy is in
    /// the current memory context.
    pub(super) unsafe fn read(datum: pg_sys::Datum) -> Self {
        // SAFETY: `pg_detoast_datum` returns a plain varlena with a header of four bytes, because it also expands short
        // headers. The varlena is aligned to four bytes. The bytes after the header are the root container.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let pointer = plain.cast::<u8>().add(pg_sys::VARHDRSZ).cast();
            Container { pointer, size: pgrx::varlena::varsize_any_exhdr(plain), lives: PhantomData }
        }
    }

    /// Returns its bytes in the server's binary form.
    pub fn bytes(self) -> &'a [u8] {
        // SAFETY: `pointer` is the address of a container of `size` bytes, which stays valid for 'a.
        unsafe { std::slice::from_raw_parts(self.pointer.cast::<u8>(), self.size) }
    }

    fn header(self) -> u32 {
        // SAFETY: `pointer` is a container that outlives 'a.
        unsafe { (*self.pointer).header }
    }

    /// Returns the value of a key. Returns `None` if this container is not an object or does not have the key.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        if self.header() & OBJECT == 0 {
            return None;
        }
        let mut found = pg_sys::JsonbValue::default();
        // SAFETY: the container is an object. The called function fills `found` and returns the address of `found`, or it
        // returns null.
        let hit = unsafe {
            pg_sys::getKeyJsonValueFromContainer(
                self.pointer,
                key.as_ptr().cast(),
                key.len() as i32,
                &mut found,
            )
        };
        (!hit.is_null()).then(|| read_value(&found))
    }

    /// Returns the object under a key.
    pub fn object(self, key: &str) -> Option<Container<'a>> {
        match self.get(key) {
            Some(Value::Nested(inner)) if inner.is_object() => Some(inner),
            _ => None,
        }
    }

    /// Returns the text under a key without converting it from the database's encoding. The extension itself writes only ASCII
    /// texts, whose bytes are the same in every encoding.
    pub fn text(self, key: &str) -> Option<&'a str> {
        match self.get(key) {
            Some(Value::String(Cow::Borrowed(text))) => Some(text),
            _ => None,
        }
    }

    /// Returns the text under a key, converted from the database's encoding.
    pub fn converted_text(self, key: &str) -> Option<Cow<'a, str>> {
        match self.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Returns its size in bytes.
    pub fn size(self) -> usize {
        self.size
    }

    /// Writes a jsonb into the current memory context.
    pub(super) fn write(self) -> pg_sys::Datum {
        varlena::write(&[self.bytes()])
    }

    /// Returns a copy of the document. The copy outlives the document's memory context.
    pub fn into_owned(self) -> OwnedVarlena {
        OwnedVarlena::from_payload(self.bytes())
    }

    /// Returns it as JSON text.
    pub fn json(self) -> String {
        // SAFETY: the container stays valid for 'a. JsonbToCString reads it and returns a palloc'ed string.
        unsafe {
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), self.pointer, self.size as i32);
            text::from_server(CStr::from_ptr(text).to_bytes()).into_owned()
        }
    }

    /// Returns the keys of an object. Leaves out keys that are not valid UTF-8. Such keys occur only in databases with another
    /// encoding.
    pub fn keys(self) -> Vec<&'a str> {
        if !self.is_object() {
            return Vec::new();
        }
        let pairs = (self.header() & COUNT) as usize;
        let keys = children(self.bytes(), 2 * pairs).into_iter().take(pairs);
        keys.filter_map(|(_, key)| std::str::from_utf8(key).ok()).collect()
    }

    pub fn is_object(self) -> bool {
        self.header() & OBJECT != 0
    }

    /// Returns the elements if this is an array, otherwise none.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        let header = self.header();
        let count = if header & ARRAY != 0 && header & SCALAR == 0 { header & COUNT } else { 0 };
        (0..count).filter_map(move |i| {
            // SAFETY: the container is an array, and `i` is less than the number of its elements.
            let element = unsafe { pg_sys::getIthJsonbValueFromContainer(self.pointer, i) };
            // SAFETY: a non-null result is a JsonbValue allocated for the caller.
            (!element.is_null()).then(|| read_value(unsafe { &*element }))
        })
    }
}

fn read_value<'a>(value: &pg_sys::JsonbValue) -> Value<'a> {
    // SAFETY: each arm reads the member of the union that `type_` names.
    unsafe {
        match value.type_ {
            pg_sys::jbvType::jbvNull => Value::Null,
            pg_sys::jbvType::jbvBool => Value::Bool(value.val.boolean),
            pg_sys::jbvType::jbvString => {
                let string = value.val.string;
                let bytes = std::slice::from_raw_parts(string.val.cast::<u8>(), string.len as usize);
                Value::String(text::from_server(bytes))
            }
            pg_sys::jbvType::jbvBinary => {
                let binary = value.val.binary;
                Value::Nested(Container {
                    pointer: binary.data,
                    size: binary.len as usize,
                    lives: PhantomData,
                })
            }
            pg_sys::jbvType::jbvNumeric => {
                Value::Number(Number { numeric: value.val.numeric, lives: PhantomData })
            }
            _ => Value::Null,
        }
    }
}

impl Typed<Jsonb> {
    /// Returns the root container of the document, or `None` if the document is null. The container stays valid until the
    /// memory context in which the document was made is reset or deleted.
    pub fn container(&self) -> Option<Container<'_>> {
        // SAFETY: the type guarantees a jsonb.
        self.datum().map(|datum| unsafe { Container::read(datum) })
    }
}

/// Returns an owned document for reading.
pub fn container(document: &OwnedVarlena) -> Container<'_> {
    // SAFETY: the owned bytes are a plain jsonb datum. Therefore `read` makes no copy, and the container points into the owned
    // bytes.
    unsafe { Container::read(document.datum()) }
}

/// Returns true if an owned document is an object without keys.
pub fn is_empty(document: &OwnedVarlena) -> bool {
    container(document).header() & (COUNT | OBJECT) == OBJECT
}

/// Type bits of a JEntry (src/include/utils/jsonb.h).
const ENTRY_TYPE: u32 = 0x7000_0000;
const ENTRY_LENGTH: u32 = 0x0FFF_FFFF;
const ENTRY_HAS_OFFSET: u32 = 0x8000_0000;
const ENTRY_NUMERIC: u32 = 0x1000_0000;
const ENTRY_CONTAINER: u32 = 0x5000_0000;
/// In a container, an entry whose index is a multiple of this number holds the offset of the end of its child. Every other
/// entry holds the length of its child.
const OFFSET_STRIDE: usize = 32;

/// If the document is an object, returns the object without the key. Returns any other document unchanged. The result outlives
/// the memory context of the document.
///
/// Copies the children as bytes. The SQL operator `-` would decompose and rebuild every nested value. That takes longer than
/// finding the document's row.
pub fn owned_without(document: Container<'_>, key: &str) -> OwnedVarlena {
    let (bytes, header) = (document.bytes(), document.header());
    if header & OBJECT == 0 || document.get(key).is_none() {
        return OwnedVarlena::from_payload(bytes);
    }
    let pairs = (header & COUNT) as usize;
    let children = children(bytes, 2 * pairs);
    let kept: Vec<usize> = (0..pairs).filter(|i| children[*i].1 != key.as_bytes()).collect();
    let mut entries: Vec<u32> = Vec::with_capacity(2 * kept.len());
    let mut data: Vec<u8> = Vec::with_capacity(bytes.len());
    for index in kept.iter().copied().chain(kept.iter().map(|i| i + pairs)) {
        let (kind, content) = children[index];
        let start = data.len();
        if is_aligned(kind) {
            data.resize(start.next_multiple_of(4), 0);
        }
        data.extend_from_slice(content);
        let entry = if entries.len().is_multiple_of(OFFSET_STRIDE) {
            data.len() as u32 | ENTRY_HAS_OFFSET
        } else {
            (data.len() - start) as u32
        };
        entries.push(kind | entry);
    }
    let mut payload = Vec::with_capacity(4 + 4 * entries.len() + data.len());
    payload.extend_from_slice(&(kept.len() as u32 | OBJECT).to_ne_bytes());
    payload.extend(entries.into_iter().flat_map(u32::to_ne_bytes));
    payload.extend_from_slice(&data);
    OwnedVarlena::from_payload(&payload)
}

fn is_aligned(kind: u32) -> bool {
    kind == ENTRY_NUMERIC || kind == ENTRY_CONTAINER
}

/// Returns the type bits and the bytes (without padding) of each child of a container.
fn children(bytes: &[u8], count: usize) -> Vec<(u32, &[u8])> {
    let (entries, data) = bytes[4..].split_at(4 * count);
    let mut end = 0;
    entries
        .chunks_exact(4)
        .map(|entry| {
            let entry = u32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let (kind, start) = (entry & ENTRY_TYPE, end);
            let length = (entry & ENTRY_LENGTH) as usize;
            end = if entry & ENTRY_HAS_OFFSET != 0 { length } else { start + length };
            let start = if is_aligned(kind) { start.next_multiple_of(4) } else { start };
            (kind, &data[start..end])
        })
        .collect()
}

/// Parses a text in the server's encoding. Returns `None` if the server rejects the text for any reason.
pub fn parse(text: &[u8]) -> Option<Typed<Jsonb>> {
    let text = std::ffi::CString::new(text).ok()?;
    // SAFETY: jsonb_in takes a NUL-terminated text, which outlives the call.
    let parsed = contained(|| unsafe {
        pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr()))])
    });
    parsed.ok().flatten().map(Typed::made)
}

/// Returns an object without keys.
pub fn empty() -> Typed<Jsonb> {
    object(|_| ())
}

/// Merges two objects, as the SQL operator `left || right` does. If one object is null, returns the other object. The result is
/// null only if both objects are null.
pub fn concat(left: Typed<Jsonb>, right: Typed<Jsonb>) -> Typed<Jsonb> {
    let (Some(first), Some(second)) = (left.datum(), right.datum()) else {
        return if left.is_null() { right } else { left };
    };
    // SAFETY: both values are jsonb datums, and jsonb_concat accepts any two jsonb datums.
    let both =
        unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_concat, &[Some(first), Some(second)]) };
    both.map_or(left, Typed::made)
}
