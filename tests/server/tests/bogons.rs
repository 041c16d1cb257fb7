//! Addresses that cannot be in use on the internet, from IANA's special-purpose registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use server_tests::database;
use server_tests::random::Random;

/// First and last address of each block that is not globally reachable.
const BOGONS: &[(&str, &str)] = &[
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.8"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("240.0.0.0", "255.255.255.255"),
    ("::", "::1"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
    ("100::", "100::ffff:ffff:ffff:ffff"),
    ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("::ffff:10.0.0.0", "::ffff:10.255.255.255"),
];

/// Neighbours of those blocks, and well-known addresses.
const PUBLIC: &[&str] = &[
    "1.0.0.0",
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2a03:2880::1",
    "2606:4700::1111",
    "2001:db7:ffff::1",
    "2001:db9::",
    "::ffff:8.8.8.8",
];

#[test]
fn every_special_purpose_block_is_bogus_from_its_first_to_its_last_address() {
    let mut db = database();
    let addresses: Vec<String> = BOGONS
        .iter()
        .flat_map(|(first, last)| {
            let middle = between(first, last);
            [(*first).to_owned(), (*last).to_owned(), middle]
        })
        .collect();
    let wrong = db.rows(&format!(
        "SELECT a FROM unnest('{{{}}}'::inet[]) a
         WHERE NOT enrich.is_bogon(a) OR coalesce(enrich.bogon_reason(a), '') = ''",
        addresses.join(",")
    ));
    assert_eq!(wrong, [""; 0], "these are bogons, with a reason");
}

#[test]
fn the_neighbours_of_special_purpose_blocks_are_public() {
    let mut db = database();
    let wrong = db.rows(&format!(
        "SELECT a, enrich.bogon_reason(a) FROM unnest('{{{}}}'::inet[]) a
         WHERE enrich.is_bogon(a) OR enrich.bogon_reason(a) IS NOT NULL",
        PUBLIC.join(",")
    ));
    assert_eq!(wrong, [""; 0], "these are no bogons");
}

#[test]
fn a_reason_is_given_exactly_for_bogons() {
    let mut db = database();
    let mut random = Random::seeded(1);
    let addresses: Vec<String> = (0..20_000)
        .map(|i| {
            if i % 2 == 0 {
                Ipv4Addr::from(random.number() as u32).to_string()
            } else {
                let high = u128::from(random.number()) << 64;
                Ipv6Addr::from(high | u128::from(random.number())).to_string()
            }
        })
        .collect();
    let wrong = db.rows(&format!(
        "SELECT a FROM unnest('{{{}}}'::inet[]) a
         WHERE enrich.is_bogon(a) IS DISTINCT FROM (enrich.bogon_reason(a) IS NOT NULL)",
        addresses.join(",")
    ));
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn null_in_null_out_and_a_network_is_refused() {
    let mut db = database();
    assert_eq!(db.one("SELECT enrich.is_bogon(NULL), enrich.bogon_reason(NULL)"), "NULL|NULL");
    for function in ["is_bogon", "bogon_reason"] {
        let refusal = db.refused(&format!("SELECT enrich.{function}('10.0.0.0/8')"));
        assert_eq!(refusal.code, "22023", "{refusal:?}");
        assert!(refusal.hint.is_some(), "{refusal:?}");
    }
}

fn between(first: &str, last: &str) -> String {
    let number = |text: &str| match text.parse().expect("an address") {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let (low, high) = (number(first), number(last));
    let middle = low + (high - low) / 2;
    if first.contains(':') {
        Ipv6Addr::from(middle).to_string()
    } else {
        Ipv4Addr::from(middle as u32).to_string()
    }
}
