//! Compiles lists in all formats, and compares lookups in the compiled file with the lists.

mod command;
mod errors;
mod fixtures;
mod full_size;
mod invariants;
mod naive;
mod records;
mod traps;

use std::net::IpAddr;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::types::TypeDatabase;
use cowrie_enrich_tools::lists::compile::compile;
use cowrie_enrich_tools::lists::list::{List, Source};
use cowrie_enrich_tools::lists::{Content, read};
use cowrie_enrich_tools::mmdb::Settings;

pub const PUBLISHED: u64 = 1_780_000_000;

/// Returns a list that consists of one file.
pub fn list(name: &str, kind: &str, file: &str) -> List {
    let mut list = List::new(&source(name, kind));
    list.add(content(file), None, PUBLISHED, None).unwrap();
    list
}

pub fn source(name: &str, kind: &str) -> Source {
    Source::of_addresses(&format!("{name}:{kind}:file")).unwrap()
}

pub fn content(file: &str) -> Content {
    read(file.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

pub fn serve(lists: &[List]) -> TypeDatabase<Vec<u8>> {
    let settings = Settings { build_epoch: Some(PUBLISHED), record_size: None };
    let served = TypeDatabase::open(compile(lists, settings).unwrap().bytes).unwrap();
    served.verify().unwrap();
    served
}

/// Statement about an address: the list, the provider, the region, the service. An unknown text is empty.
pub type Statement = (String, String, String, String);

pub fn statements(served: &TypeDatabase<Vec<u8>>, address: IpAddr) -> Vec<Statement> {
    let mut found = Vec::new();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    served
        .entries(Address::new(address), |entry| {
            let list = served.lists()[entry.list].name.clone();
            found.push((list, text(entry.provider), text(entry.region), text(entry.service)));
        })
        .unwrap();
    found
}

/// Returns the statements of lists about the address, as `list/provider/region/service`.
pub fn found(served: &TypeDatabase<Vec<u8>>, address: &str) -> Vec<String> {
    let found = statements(served, address.parse().unwrap());
    found.into_iter().map(|(a, b, c, d)| [a, b, c, d].join("/").trim_end_matches('/').to_owned()).collect()
}
