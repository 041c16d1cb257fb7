//! Files that `mmdb-build --types` compiled from lists.
//!
//! The parts of such a file:
//! ```text
//! database_type              "cowrie_enrich-IP-Types"
//! description: {"lists": JSON}   {"format": 1, "lists": [{"name": "aws", "type": "DATACENTER",
//!                                "published": 1700000000, "entries": 7905, "notice": "..."}]}
//! record                     {"lists": uint64,            ; bit N: list N contains the network
//!                             "matches": {"0000": {"list": uint, "provider": "AWS", "region": "eu-central-1",
//!                                                  "service": "EC2"}}}   ; unknown texts are left out
//! ```
//!
//! The value of `lists` is a number, and a lookup of types reads only this number, so the lookup is fast. The keys of a record are
//! sorted, so `lists` is the first key.
//!
//! The table of lists is in the description of the file, because every program that reads mmdb files can show the description.
//!
//! The value of `matches` is a map and not an array, because mmdb-writer 0.1.0 writes wrong headers for arrays with 29 or more
//! values. The keys of this map are numbers. The numbers only determine the order of the values, so programs that read the map
//! ignore the keys.

use super::{Entry, ListSet, TypeList, is_list_name, is_type};
use crate::mmdb::format::{Fault, LAST_BUILD, Section, Token};
use crate::mmdb::{MmdbError, clean_name};
use serde_json::Value;

pub const DATABASE_TYPE: &str = "cowrie_enrich-IP-Types";

/// Key of the table of lists in the description.
pub const DESCRIPTION_KEY: &str = "lists";

/// Version of the table and of the records.
pub const FORMAT: u64 = 1;

/// Maximum number of units of work that a lookup may spend on one record. Each value is one unit, and each byte of text is one
/// unit. `verify` refuses a file with a larger record.
pub(super) const WORK: usize = (1 << 14) + (256 << 10);

/// Maximum number of units of work that `verify` may spend for each byte of the data section. The maximum is high because records
/// share texts: a pointer of three bytes may lead to a long text.
pub(super) const WORK_A_BYTE: usize = 64;

/// Parses the table of lists.
pub(super) fn lists(table: Option<&str>) -> Result<Vec<TypeList>, MmdbError> {
    let invalid = |reason: String| MmdbError::Metadata { field: "description, lists", reason };
    let table = table.ok_or_else(|| invalid("is missing".into()))?;
    let table: Value = serde_json::from_str(table).map_err(|_| invalid("is no JSON".into()))?;
    match table.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => {}
        Some(value) => return Err(MmdbError::Unsupported { what: "format of lists", value }),
        None => return Err(invalid("format is missing".into())),
    }
    let lists = table
        .get("lists")
        .and_then(Value::as_array)
        .filter(|lists| (1..=ListSet::CAPACITY).contains(&lists.len()))
        .ok_or_else(|| invalid(format!("the number of lists is not between 1 and {}", ListSet::CAPACITY)))?;
    let mut read: Vec<TypeList> = Vec::with_capacity(lists.len());
    for (index, list) in lists.iter().enumerate() {
        let of_list = |reason: &str| invalid(format!("list {index} {reason}"));
        let text = |key: &str| list.get(key).and_then(Value::as_str);
        let name =
            text("name").filter(|name| is_list_name(name)).ok_or_else(|| of_list("has no valid name"))?;
        let kind = text("type").filter(|kind| is_type(kind)).ok_or_else(|| of_list("has no valid type"))?;
        let published = list
            .get("published")
            .and_then(Value::as_u64)
            .filter(|seconds| *seconds <= LAST_BUILD)
            .ok_or_else(|| of_list("has no valid time"))?;
        if read.iter().any(|other| other.name == name) {
            return Err(of_list("has the same name as another list"));
        }
        read.push(TypeList {
            name: name.to_owned(),
            kind: kind.to_owned(),
            published,
            entries: list.get("entries").and_then(Value::as_u64),
            notice: text("notice").map(|notice| clean_name(notice).into_owned()),
        });
    }
    Ok(read)
}

#[inline]
pub(super) fn matches(data: Section<'_>, record: usize, work: &mut usize) -> Result<ListSet, Fault> {
    match member(data, record, b"lists", work)? {
        Some((Token::Unsigned(bits), _)) => Ok(ListSet::from_bits(bits as u64)),
        _ => Ok(ListSet::EMPTY),
    }
}

pub(super) fn entries<'a>(
    data: Section<'a>,
    record: usize,
    work: &mut usize,
    visit: &mut dyn FnMut(Entry<'a>),
) -> Result<(), Fault> {
    let Some((Token::Map(count), mut at)) = member(data, record, b"matches", work)? else {
        return Ok(());
    };
    for _ in 0..count {
        data.skip(&mut at, work)?;
        let mut element_at = at;
        let (token, mut inside) = data.next_resolved(&mut element_at)?;
        data.skip(&mut at, work)?;
        let Token::Map(pairs) = token else { continue };
        let mut entry = Entry { list: usize::MAX, provider: None, region: None, service: None };
        for _ in 0..pairs {
            let (key, _) = data.next_resolved(&mut inside)?;
            let mut value_at = inside;
            let (value, _) = data.next_resolved(&mut value_at)?;
            data.skip(&mut inside, work)?;
            if let Token::Text(text) = value {
                spend(work, text.len(), inside)?;
            }
            match (key, value) {
                (Token::Text(b"list"), Token::Unsigned(list)) => {
                    entry.list = usize::try_from(list).unwrap_or(usize::MAX);
                }
                (Token::Text(b"provider"), Token::Text(text)) => entry.provider = known(text),
                (Token::Text(b"region"), Token::Text(text)) => entry.region = known(text),
                (Token::Text(b"service"), Token::Text(text)) => entry.service = known(text),
                _ => {}
            }
        }
        visit(entry);
    }
    Ok(())
}

/// Checks that the keys `lists` and `matches` of a record name the same lists, and that all these lists exist in the file. `work`
/// is the number of units of work that remain for all records of the file together, because records may share data.
pub(super) fn check(data: Section<'_>, record: usize, all: ListSet, work: &mut usize) -> Result<(), Fault> {
    let fault = |reason| Fault { offset: record, reason };
    let lists = matches(data, record, work)?;
    if lists.is_empty() {
        return Err(fault("names no list"));
    }
    if lists & all != lists {
        return Err(fault("refers to a list that is not in the file"));
    }
    let mut stated = ListSet::EMPTY;
    let mut is_outside = false;
    entries(data, record, work, &mut |entry| {
        is_outside |= !all.contains(entry.list);
        stated.insert(entry.list);
    })?;
    if is_outside || stated != lists {
        return Err(fault("the keys \"lists\" and \"matches\" refer to different lists"));
    }
    Ok(())
}

fn spend(work: &mut usize, units: usize, offset: usize) -> Result<(), Fault> {
    *work = work.checked_sub(units).ok_or(Fault { offset, reason: "record has too many values" })?;
    Ok(())
}

/// Returns text that is not empty.
pub(super) fn known(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// Returns the value of a key in the record, and the position of the value's first member.
#[inline]
fn member<'a>(
    data: Section<'a>,
    record: usize,
    wanted: &[u8],
    work: &mut usize,
) -> Result<Option<(Token<'a>, usize)>, Fault> {
    let (Token::Map(pairs), mut at) = data.next_resolved(&mut { record })? else {
        return Ok(None);
    };
    for _ in 0..pairs {
        let (key, _) = data.next_resolved(&mut at)?;
        if key == Token::Text(wanted) {
            return data.next_resolved(&mut at).map(Some);
        }
        data.skip(&mut at, work)?;
    }
    Ok(None)
}
