//! Measures the time of `open`, `verify` and lookups on a full-size file, and compares it with the bare crate.
//!
//! `cargo run --release -p cowrie_enrich_engine --example lookup_cost -- CITY_OR_ASN.mmdb`

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::{Content, Database};
use maxminddb::{Reader, path};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const LOOKUPS: u32 = 1_000_000;

/// Returns nanoseconds per lookup and the number of addresses found. Each call uses the same pseudorandom IPv4
/// addresses.
fn nanoseconds(mut look_up: impl FnMut(IpAddr) -> bool) -> (f64, u32) {
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    let mut found = 0;
    let start = Instant::now();
    for _ in 0..LOOKUPS {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        found += u32::from(look_up(IpAddr::V4(Ipv4Addr::from_bits((bits >> 32) as u32))));
    }
    (start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS), found)
}

fn main() {
    let file = std::env::args().nth(1).expect("usage: lookup_cost FILE.mmdb");
    let bytes = std::fs::read(&file).expect("the file can be read");
    let reader = Reader::from_source(bytes.as_slice()).expect("the crate opens it");

    let start = Instant::now();
    let database = Database::open(bytes.as_slice()).expect("it opens");
    println!(
        "open      {:>10.3} ms  {:?} {:?}",
        start.elapsed().as_secs_f64() * 1e3,
        database.content(),
        database.facts()
    );
    let start = Instant::now();
    database.verify().expect("it is sound");
    println!(
        "verify    {:>10.3} ms  for {} MB",
        start.elapsed().as_secs_f64() * 1e3,
        bytes.len() / 1_000_000
    );
    let start = Instant::now();
    let verified = reader.verify();
    println!("  crate's {:>10.3} ms  {verified:?}", start.elapsed().as_secs_f64() * 1e3);

    // Alternates between the readers and keeps the best round of each reader, because other processes can only add time.
    let (mut bare, mut ours, mut whole) = ((f64::MAX, 0), (f64::MAX, 0), (f64::MAX, 0));
    let better = |a: (f64, u32), b: (f64, u32)| if b.0 < a.0 { b } else { a };
    for _ in 0..5 {
        if database.content() == Content::Network {
            let number = path!["autonomous_system_number"];
            bare = better(
                bare,
                nanoseconds(|ip| {
                    black_box(reader.lookup(ip).unwrap().decode_path::<u32>(&number).unwrap()).is_some()
                }),
            );
            ours =
                better(ours, nanoseconds(|ip| black_box(database.asn(Address::new(ip)).unwrap()).is_some()));
            whole = better(
                whole,
                nanoseconds(|ip| black_box(database.network(Address::new(ip)).unwrap()).is_some()),
            );
        } else {
            let code = path!["country", "iso_code"];
            bare = better(
                bare,
                nanoseconds(|ip| {
                    black_box(reader.lookup(ip).unwrap().decode_path::<&str>(&code).unwrap()).is_some()
                }),
            );
            ours = better(
                ours,
                nanoseconds(|ip| black_box(database.country(Address::new(ip)).unwrap()).is_some()),
            );
            whole = better(
                whole,
                nanoseconds(|ip| black_box(database.location(Address::new(ip)).unwrap()).is_some()),
            );
        }
    }
    println!("bare path {:>10.1} ns  {} found", bare.0, bare.1);
    println!("scalar    {:>10.1} ns  {} found, {:.2} of bare", ours.0, ours.1, ours.0 / bare.0);
    println!("whole     {:>10.1} ns  {} found", whole.0, whole.1);
}
