//! Invariants of reading lists, for any bytes.
//!
//! The property tests and the target `lists_file` of `fuzz/` call `holds`. No call panics. A list that was read compiles
//! to a valid file, in which the first and the last address of each network are found. Only a list with too many statements
//! about a network does not compile. An error can be shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::types::TypeDatabase;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_tools::lists::compile::{Error, compile};
use cowrie_enrich_tools::lists::known_networks::{self, AsnList};
use cowrie_enrich_tools::lists::list::{List, Source};
use cowrie_enrich_tools::lists::read;
use cowrie_enrich_tools::mmdb::Settings;

fn last(prefix: Prefix) -> Address {
    let length = u32::from(prefix.length());
    let ip: IpAddr = match prefix.network().ip() {
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(ip.to_bits() | u32::MAX.checked_shr(length).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from_bits(ip.to_bits() | u128::MAX.checked_shr(length).unwrap_or(0)).into()
        }
    };
    ip.into()
}

pub fn holds(bytes: &[u8]) {
    let content = match read(bytes) {
        Ok(content) => content,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.chars().count() < 400, "{} characters", text.chars().count());
            assert!(!text.contains(char::is_control), "{text:?}");
            return;
        }
    };
    assert!(!content.entries.is_empty() || !content.asns.is_empty(), "an empty list is an error");
    if content.entries.is_empty() {
        let list = AsnList { name: "asns".into(), kind: "HOSTING".into(), asns: content.asns };
        assert!(known_networks::csv(&[list]).unwrap().lines().count() > 1);
        return;
    }
    let prefixes: Vec<Prefix> = content.entries.iter().map(|entry| entry.prefix).collect();
    assert!(!prefixes.iter().any(|prefix| bogon::covers(*prefix)));
    let mut list = List::new(&Source::of_addresses("list:TYPE:file").unwrap());
    list.add(content, None, 1_780_000_000, None).unwrap();
    let settings = Settings { build_epoch: Some(1_780_000_000), record_size: None };
    let compiled = match compile(&[list], settings) {
        Ok(compiled) => compiled,
        Err(error @ Error::TooManyStatements { .. }) => return assert!(!error.to_string().is_empty()),
        Err(error) => panic!("{error}"),
    };
    let served = TypeDatabase::open(compiled.bytes).unwrap();
    served.verify().unwrap();
    for prefix in prefixes {
        for address in [prefix.network(), last(prefix)] {
            assert!(served.matches(address, served.all()).unwrap().contains(0), "{prefix}: {address}");
        }
    }
}
