//! Reads the parts of an mmdb file, and single values at a byte offset.
//!
//! Lookups of single fields use the crate `maxminddb`. This module provides two things that the crate does not provide: it reads a
//! record without an address, and it reads all parts of a hostile file in limited time. The functions follow no pointers unless the
//! caller requests it, use no recursion and allocate no memory. The caller decides how much to read.
//!
//! The grammar of an mmdb file:
//! ```text
//! file     = tree 16(%x00) data marker metadata     ; https://maxmind.github.io/MaxMind-DB/
//! tree     = node_count nodes of two records, record_size bits each
//! record   = < node_count: a node / = node_count: no data / > node_count: data offset + node_count + 16
//! value    = control [ext-type] [size] payload
//! control  = 3 bits type (0: type is 7 + ext-type), 5 bits size (29, 30, 31: 1, 2, 3 more bytes)
//! pointer  = control bits 3 and 4: 0 to 3 -> 1 to 4 bytes follow; offset counts from the section's start
//! ```
//!
//! For example, these bytes are in the record of 1.128.0.0/11 in GeoLite2-ASN: `E2` (a map with 2 pairs), `58` and
//! "autonomous_system_number" (a text; it may also be a pointer to the text), `C2 04 C5` (the uint32 1221), the key
//! "autonomous_system_organization", `4F` and "Telstra Pty Ltd".

use super::MmdbError;

pub(super) const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// The marker must be at most this many bytes before the end of the file. The format specifies this maximum size of the metadata.
const METADATA_WITHIN: usize = 128 * 1024;

/// End of the year 9999, in seconds since 1970. A timestamp of PostgreSQL may be later than this, but the times in JSON documents
/// may not.
pub(super) const LAST_BUILD: u64 = 253_402_300_799;

/// Zero bytes between tree and data section.
pub(super) const SEPARATOR: usize = 16;

/// Positions of the parts of a file. The positions were compared with the length of the file, so slices of the file with these
/// positions cannot panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub node_count: u32,
    pub record_size: u16,
    pub ip_version: u16,
    data: (usize, usize),
}

impl Plan {
    pub fn read(bytes: &[u8]) -> Result<Self, MmdbError> {
        let tail = bytes.len().saturating_sub(METADATA_WITHIN);
        let marker = bytes[tail..]
            .windows(MARKER.len())
            .rposition(|window| window == MARKER)
            .map(|at| tail + at)
            .ok_or(MmdbError::NotMmdb { length: bytes.len(), looks_like: looks_like(bytes) })?;
        let metadata = Section(&bytes[marker + MARKER.len()..]);

        let number = |field: &'static str| -> Result<u64, MmdbError> {
            match metadata.member(field) {
                Ok(Some(Token::Unsigned(number))) => u64::try_from(number)
                    .map_err(|_| MmdbError::Metadata { field, reason: "number is out of range".into() }),
                Ok(Some(_)) => Err(MmdbError::Metadata { field, reason: "is not a number".into() }),
                Ok(None) => Err(MmdbError::Metadata { field, reason: "is missing".into() }),
                Err(fault) => Err(MmdbError::Metadata { field, reason: fault.reason.into() }),
            }
        };
        let one_of = |field: &'static str, known: &[u64]| match number(field)? {
            value if known.contains(&value) => Ok(value as u16),
            value => Err(MmdbError::Unsupported { what: field, value }),
        };
        one_of("binary_format_major_version", &[2])?;
        if number("build_epoch")? > LAST_BUILD {
            let reason = "the time is in the year 10000 or later".into();
            return Err(MmdbError::Metadata { field: "build_epoch", reason });
        }
        let ip_version = one_of("ip_version", &[4, 6])?;
        let record_size = one_of("record_size", &[24, 28, 32])?;
        let node_count = match number("node_count")? {
            0 => {
                return Err(MmdbError::Metadata { field: "node_count", reason: "is zero".into() });
            }
            count => u32::try_from(count)
                .map_err(|_| MmdbError::Unsupported { what: "node_count", value: count })?,
        };

        // The tree has at most 2^32 nodes with 8 bytes each, so 64 bits are enough for its size.
        let needed = u64::from(node_count) * u64::from(record_size / 4) + SEPARATOR as u64;
        if needed > marker as u64 {
            return Err(MmdbError::Truncated { needed, available: marker as u64 });
        }
        Ok(Self { node_count, record_size, ip_version, data: (needed as usize, marker) })
    }

    pub fn data<'a>(&self, bytes: &'a [u8]) -> Section<'a> {
        Section(&bytes[self.data.0..self.data.1])
    }

    pub fn separator<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.data.0 - SEPARATOR..self.data.0]
    }

    /// Returns the maximum depth of the tree, which is the number of bits of an address.
    pub fn address_bits(&self) -> usize {
        if self.ip_version == 4 { 32 } else { 128 }
    }

    /// Returns the two records of a node of the tree. `node` must be less than `node_count`.
    pub fn node(&self, bytes: &[u8], node: u32) -> [u32; 2] {
        let at = node as usize;
        [false, true].map(|is_right| match self.record_size {
            24 => record_of_24(&self.nodes(bytes)[at], is_right),
            28 => record_of_28(&self.nodes(bytes)[at], is_right),
            _ => record_of_32(&self.nodes(bytes)[at], is_right),
        })
    }

    /// Returns the nodes of the tree. `WIDTH` must be the size of a node in bytes, which is `record_size` divided by four.
    pub fn nodes<'a, const WIDTH: usize>(&self, bytes: &'a [u8]) -> &'a [[u8; WIDTH]] {
        bytes[..self.node_count as usize * WIDTH].as_chunks().0
    }

    pub fn follow(&self, record: u32) -> Step {
        match record.checked_sub(self.node_count) {
            None => Step::Node(record),
            Some(0) => Step::Nothing,
            Some(beyond) => match (beyond as usize).checked_sub(SEPARATOR) {
                Some(offset) if offset < self.data.1 - self.data.0 => Step::Data(offset),
                _ => Step::Astray,
            },
        }
    }
}

/// Returns the left or the right record of a node whose records have 24 bits.
#[inline]
pub(super) fn record_of_24([a, b, c, d, e, f]: &[u8; 6], is_right: bool) -> u32 {
    let node = u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
    (node >> if is_right { 0 } else { 24 }) as u32 & 0xff_ffff
}

/// Returns the left or the right record of a node whose records have 28 bits. The byte in the middle has the four highest bits of
/// each record.
#[inline]
pub(super) fn record_of_28([a, b, c, middle, d, e, f]: &[u8; 7], is_right: bool) -> u32 {
    if is_right {
        u32::from_be_bytes([middle & 15, *d, *e, *f])
    } else {
        u32::from_be_bytes([middle >> 4, *a, *b, *c])
    }
}

/// Returns the left or the right record of a node whose records have 32 bits.
#[inline]
pub(super) fn record_of_32(node: &[u8; 8], is_right: bool) -> u32 {
    (u64::from_be_bytes(*node) >> if is_right { 0 } else { 32 }) as u32
}

/// Target of a record of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Node(u32),
    Nothing,
    Data(usize),
    /// The record points into the separator or behind the data section.
    Astray,
}

/// Recognises kinds of files that users load by mistake. The error message then says what kind of file it is.
fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [] => Some("empty"),
        [0x1f, 0x8b, ..] => Some("a gzip archive (unpack it first)"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive (unpack it first)"),
        [b'<', ..] => Some("a web page"),
        _ => None,
    }
}

/// An error at a byte of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub offset: usize,
    pub reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Token<'a> {
    Pointer(usize),
    Text(&'a [u8]),
    Bytes,
    Unsigned(u128),
    Signed(i32),
    Double(f64),
    Float(f32),
    Bool(bool),
    /// A map; this many pairs follow.
    Map(usize),
    /// An array; this many values follow.
    Array(usize),
}

impl Token<'_> {
    /// Returns how many values follow as members of this value.
    pub fn members(self) -> usize {
        match self {
            Self::Map(pairs) => pairs * 2,
            Self::Array(values) => values,
            _ => 0,
        }
    }
}

/// The data section or the metadata of a file. Both are a sequence of values. A pointer in a section counts from the start of the
/// section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a>(pub &'a [u8]);

impl<'a> Section<'a> {
    /// Returns the value at the position `*at`, and moves `*at`. After the call, `*at` is the position after the value. For a map
    /// or an array, `*at` is the position of the first member.
    pub fn next(self, at: &mut usize) -> Result<Token<'a>, Fault> {
        let start = *at;
        let fault = |reason| Fault { offset: start, reason };
        let mut take = |count: usize| -> Result<&'a [u8], Fault> {
            let end = at.checked_add(count).filter(|end| *end <= self.0.len());
            let taken = end.and_then(|end| self.0.get(*at..end)).ok_or(fault("value runs past the end"))?;
            *at += count;
            Ok(taken)
        };

        let control = take(1)?[0];
        let low = usize::from(control & 0x1f);
        let kind = match control >> 5 {
            0 => 7 + u16::from(take(1)?[0]),
            kind => u16::from(kind),
        };
        if kind == 1 {
            let high = low & 7;
            let pointer = match low >> 3 {
                0 => number(take(1)?) + (high << 8),
                1 => number(take(2)?) + (high << 16) + 2_048,
                2 => number(take(3)?) + (high << 24) + 526_336,
                _ => number(take(4)?),
            };
            return Ok(Token::Pointer(pointer));
        }
        let size = match low {
            29 => 29 + number(take(1)?),
            30 => 285 + number(take(2)?),
            31 => 65_821 + number(take(3)?),
            size => size,
        };
        let mut unsigned = |most: usize| {
            if size > most {
                return Err(fault("number is wider than its type"));
            }
            Ok(take(size)?.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte)))
        };
        match kind {
            2 => Ok(Token::Text(take(size)?)),
            3 => take(size)?
                .try_into()
                .map(|bytes| Token::Double(f64::from_be_bytes(bytes)))
                .map_err(|_| fault("double is not 8 bytes")),
            4 => take(size).map(|_| Token::Bytes),
            5 => unsigned(2).map(Token::Unsigned),
            6 => unsigned(4).map(Token::Unsigned),
            7 => Ok(Token::Map(size)),
            8 => unsigned(4).map(|bits| Token::Signed(bits as u32 as i32)),
            9 => unsigned(8).map(Token::Unsigned),
            10 => unsigned(16).map(Token::Unsigned),
            11 => Ok(Token::Array(size)),
            14 if size < 2 => Ok(Token::Bool(size == 1)),
            14 => Err(fault("boolean value is neither 0 nor 1")),
            15 => take(size)?
                .try_into()
                .map(|bytes| Token::Float(f32::from_be_bytes(bytes)))
                .map_err(|_| fault("float value is not 4 bytes long")),
            _ => Err(fault("unknown type of value")),
        }
    }

    /// Reads a value like `next`. If the value is a pointer, follows this pointer once and returns the target. In this case
    /// `inside` is the position of the first member of the target, and `*at` is the position after the pointer.
    pub fn next_resolved(self, at: &mut usize) -> Result<(Token<'a>, usize), Fault> {
        let start = *at;
        match self.next(at)? {
            Token::Pointer(target) => {
                let mut inside = target;
                match self.next(&mut inside)? {
                    Token::Pointer(_) => Err(Fault { offset: start, reason: "pointer to a pointer" }),
                    token => Ok((token, inside)),
                }
            }
            token => Ok((token, *at)),
        }
    }

    /// Moves `*at` to the position after one value and all its members. Does not follow pointers. `budget` is the number of values
    /// that may be skipped.
    pub fn skip(self, at: &mut usize, budget: &mut usize) -> Result<(), Fault> {
        let mut left = 1_usize;
        while left > 0 {
            let start = *at;
            *budget =
                budget.checked_sub(1).ok_or(Fault { offset: start, reason: "record has too many values" })?;
            // Each member has at least one byte. So `left` becomes larger than the budget long before an overflow could happen.
            left = left - 1 + self.next(at)?.members();
        }
        Ok(())
    }

    /// Returns the scalar value of `key` in the map at the start of the section. Used for the metadata.
    fn member(self, key: &str) -> Result<Option<Token<'a>>, Fault> {
        let mut at = 0;
        let mut budget = 4096;
        let Token::Map(pairs) = self.next(&mut at)? else {
            return Err(Fault { offset: 0, reason: "metadata is not a map" });
        };
        for _ in 0..pairs {
            let (name, _) = self.next_resolved(&mut at)?;
            if name == Token::Text(key.as_bytes()) {
                return self.next_resolved(&mut at).map(|(token, _)| Some(token));
            }
            self.skip(&mut at, &mut budget)?;
        }
        Ok(None)
    }
}

/// Reads at most four bytes, big endian.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Token<'_>, Fault> {
        Section(bytes).next(&mut 0)
    }

    /// Tests offsets from the table in the specification of the format. The offsets of a pointer with more bytes start where the
    /// offsets of a pointer with fewer bytes end.
    #[test]
    fn pointers_of_every_width_are_read() {
        for (bytes, target) in [
            (&[0b0010_0000, 0][..], 0),
            (&[0b0010_0111, 0xFF], 2_047),
            (&[0b0010_1000, 0, 0], 2_048),
            (&[0b0010_1111, 0xFF, 0xFF], 526_335),
            (&[0b0011_0000, 0, 0, 0], 526_336),
            (&[0b0011_0111, 0xFF, 0xFF, 0xFF], 134_744_063),
            (&[0b0011_1000, 0xFF, 0xFF, 0xFF, 0xFF], 4_294_967_295),
        ] {
            assert_eq!(first(bytes), Ok(Token::Pointer(target)), "{bytes:?}");
            assert!(first(&bytes[..bytes.len() - 1]).is_err(), "{bytes:?} cut short");
        }
    }

    #[test]
    fn sizes_of_every_width_are_read() {
        for (bytes, size) in [
            (&[0xE0][..], 0),
            (&[0xFC], 28),
            (&[0xFD, 0], 29),
            (&[0xFD, 255], 284),
            (&[0xFE, 0, 0], 285),
            (&[0xFE, 255, 255], 65_820),
            (&[0xFF, 0, 0, 0], 65_821),
            (&[0xFF, 255, 255, 255], 16_843_036),
        ] {
            assert_eq!(first(bytes), Ok(Token::Map(size)), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        for (bytes, token) in [
            (&[0xA0][..], Token::Unsigned(0)),
            (&[0xA2, 1, 2], Token::Unsigned(0x102)),
            (&[0xC2, 0x04, 0xC5], Token::Unsigned(1221)),
            (&[0x04, 1, 0xFF, 0xFF, 0xFF, 0xFF], Token::Signed(-1)),
            (&[0x01, 1, 7], Token::Signed(7)),
            (&[0x01, 2, 9], Token::Unsigned(9)),
            (&[0x01, 3, 9], Token::Unsigned(9)),
            (&[0x04, 8, 0x3F, 0x80, 0, 0], Token::Float(1.0)),
            (&[0x68, 0x3F, 0xF0, 0, 0, 0, 0, 0, 0], Token::Double(1.0)),
            (&[0x01, 7], Token::Bool(true)),
            (&[0x00, 7], Token::Bool(false)),
        ] {
            assert_eq!(first(bytes), Ok(token), "{bytes:?}");
        }
    }

    #[test]
    fn skipping_stops_behind_the_value_or_at_the_budget() {
        // [[true, true], "x"], then another value.
        let bytes = [0x02, 4, 0x02, 4, 0x01, 7, 0x01, 7, 0x41, b'x', 0x41, b'y'];
        let (mut at, mut budget) = (0, 5);
        assert_eq!(Section(&bytes).skip(&mut at, &mut budget), Ok(()));
        assert_eq!((at, budget), (10, 0));
        let (mut at, mut budget) = (0, 4);
        assert_eq!(
            Section(&bytes).skip(&mut at, &mut budget),
            Err(Fault { offset: 8, reason: "record has too many values" })
        );
    }

    #[test]
    fn one_pointer_is_looked_through_and_no_more() {
        // At position 0 there is a pointer to position 2, where a text starts. At position 4 there is a pointer to position 0.
        let bytes = [0x20, 2, 0x41, b'x', 0x20, 0];
        let mut at = 0;
        assert_eq!(Section(&bytes).next_resolved(&mut at), Ok((Token::Text(b"x"), 4)));
        assert_eq!(at, 2);
        let refused = Section(&bytes).next_resolved(&mut 4);
        assert_eq!(refused, Err(Fault { offset: 4, reason: "pointer to a pointer" }));
    }
}
