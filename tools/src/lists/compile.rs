//! Writes lists as one mmdb file, whose records keep all lists that contain a network.
//!
//! The engine describes the format, in `engine/src/mmdb/types/compiled.rs`. A narrow network has the entries of all
//! wider networks around it, because a lookup finds only one record. Prefixes are nested or disjoint. So one pass over
//! the sorted prefixes, with a stack of the networks around the current one, finds all entries of each prefix.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cowrie_enrich_engine::mmdb::types::{DATABASE_TYPE, DESCRIPTION_KEY, FORMAT, ListSet, TypeDatabase};
use cowrie_enrich_engine::prefix::Prefix;
use mmdb_writer::{Value, Writer};
use serde_json::json;

use super::list::List;
use super::{Details, Entry};
use crate::mmdb::Settings;

/// A compiled file and its counts.
pub struct Compiled {
    pub bytes: Vec<u8>,
    pub networks: usize,
}

/// Maximum number of statements of one list about one network. Limits the size of a record.
pub const MAX_STATEMENTS: usize = 64;

/// Lists cannot be compiled.
#[derive(Debug)]
pub enum Error {
    /// A list has more than [`MAX_STATEMENTS`] statements about a network.
    TooManyStatements {
        list: String,
        network: Prefix,
    },
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyStatements { list, network } => {
                write!(f, "list {list}: {}", too_many_statements(*network))
            }
            Self::Other(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for Error {}

pub(super) fn too_many_statements(network: Prefix) -> String {
    format!("more than {MAX_STATEMENTS} different statements about {network} (provider, region, service)")
}

/// What a list states about a network: the index of the list, and the details in it.
type Statement<'a> = (usize, &'a Rc<Details>);

/// A network that contains the current network. Its statements include those of all wider networks around it.
struct Around<'a> {
    prefix: Prefix,
    statements: Vec<Statement<'a>>,
}

pub fn compile(lists: &[List], settings: Settings) -> Result<Compiled, Error> {
    if lists.is_empty() || lists.len() > ListSet::CAPACITY {
        let problem = format!("a file has 1 to {} lists, not {}", ListSet::CAPACITY, lists.len());
        return Err(Error::Other(problem));
    }
    let table = table(lists);
    let mut writer = Writer::builder(DATABASE_TYPE)
        .description(&[
            ("en", "Types of addresses, compiled from lists by mmdb-build"),
            (DESCRIPTION_KEY, table.as_str()),
        ])
        .maybe_record_size(settings.record_size)
        .maybe_build_epoch(
            settings.build_epoch.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        )
        .build();

    let mut all: Vec<(&Entry, usize)> = lists
        .iter()
        .enumerate()
        .flat_map(|(list, of)| of.entries.iter().map(move |entry| (entry, list)))
        .collect();
    all.sort_by(|(a, list_a), (b, list_b)| {
        (a.prefix, list_a, &a.details).cmp(&(b.prefix, list_b, &b.details))
    });
    let mut networks = 0;
    let mut around: Vec<Around<'_>> = Vec::new();
    for same in all.chunk_by(|(a, _), (b, _)| a.prefix == b.prefix) {
        let prefix = same[0].0.prefix;
        // The order of prefixes puts a network before the networks inside it.
        while around.last().is_some_and(|outer| !contains(outer.prefix, prefix)) {
            around.pop();
        }
        let mut statements = around.last().map_or_else(Vec::new, |outer| outer.statements.clone());
        let known = statements.len();
        for (entry, list) in same {
            let statement = (*list, &entry.details);
            // Statements that are equal are merged.
            if !statements.contains(&statement) {
                statements.push(statement);
            }
            if statements.iter().filter(|(of, _)| of == list).count() > MAX_STATEMENTS {
                let list = lists[*list].name.clone();
                return Err(Error::TooManyStatements { list, network: prefix });
            }
        }
        // A network without new statements needs no record, because the record of the network around it says
        // the same.
        if statements.len() > known {
            // Sorts by list. The sort is stable, so the statements of one list stay in order, the widest
            // network first.
            statements.sort_by_key(|(list, _)| *list);
            writer
                .insert_value(ip_net(prefix), record(&statements))
                .map_err(|error| Error::Other(format!("{prefix}: {error}")))?;
            networks += 1;
        }
        around.push(Around { prefix, statements });
    }
    let bytes = writer.to_bytes().map_err(|error| Error::Other(error.to_string()))?;
    check(&bytes).map_err(Error::Other)?;
    Ok(Compiled { bytes, networks })
}

/// Returns the number of networks of each list in a file that was compiled before.
pub fn sizes(bytes: &[u8]) -> Result<BTreeMap<String, u64>, String> {
    let file = TypeDatabase::open(bytes).map_err(|error| error.to_string())?;
    if file.facts().database_type != DATABASE_TYPE {
        return Err(format!("it is a file of type \"{}\"", file.facts().database_type));
    }
    let sizes = file.lists().iter().map(|list| (list.name.clone(), list.entries.unwrap_or(0)));
    Ok(sizes.collect())
}

/// The server refuses a file that does not pass this check, so such a file must not replace a good one.
fn check(bytes: &[u8]) -> Result<(), String> {
    TypeDatabase::open(bytes)
        .and_then(|file| file.verify())
        .map_err(|error| format!("the compiled file is invalid: {error}"))
}

fn table(lists: &[List]) -> String {
    let lists: Vec<_> = lists
        .iter()
        .map(|list| {
            let mut row = json!({
                "name": list.name,
                "type": list.kind,
                "published": list.published,
                "entries": list.networks(),
            });
            if let Some(notice) = &list.notice {
                row["notice"] = json!(notice);
            }
            row
        })
        .collect();
    json!({ "format": FORMAT, "lists": lists }).to_string()
}

fn record(statements: &[Statement<'_>]) -> Value {
    let bits = statements.iter().fold(0_u64, |bits, (list, _)| bits | 1 << list);
    let matches = statements.iter().enumerate().map(|(index, (list, details))| {
        let mut members = vec![("list", Value::from(*list as u32))];
        for (key, text) in
            [("provider", &details.provider), ("region", &details.region), ("service", &details.service)]
        {
            members.extend(text.as_ref().map(|text| (key, Value::from(text.as_str()))));
        }
        // Keys are sorted as texts, so all keys have the same length.
        (format!("{index:04}"), Value::map(members))
    });
    Value::map([("lists", Value::from(bits)), ("matches", Value::map(matches))])
}

fn contains(outer: Prefix, inner: Prefix) -> bool {
    outer.length() <= inner.length() && outer.contains(inner.network())
}

fn ip_net(prefix: Prefix) -> mmdb_writer::ipnet::IpNet {
    // A prefix has a valid length, so the host is never used.
    let ip = prefix.network().ip();
    mmdb_writer::ipnet::IpNet::new(ip, prefix.length()).unwrap_or(ip.into())
}
