//! The mmdb databases and the addresses of the measurements.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use maxminddb::{PathElement, Reader, WithinOptions};
use server_tests::installation::workspace;
use server_tests::random::Random;
use server_tests::world::{self, Files};
use server_tests::{Cluster, Session};

/// Addresses that sessions come from.
pub const POOL: usize = 300_000;
/// Addresses that are looked up.
pub const SAMPLE: usize = 1_000_000;

/// Paths of the country and the network in a record.
pub const COUNTRY_PATHS: [&[PathElement<'static>]; 1] =
    [&[PathElement::Key("country"), PathElement::Key("iso_code")]];
pub const ASN_PATHS: [&[PathElement<'static>]; 1] = [&[PathElement::Key("autonomous_system_number")]];

/// A range of IPv4 addresses with the same answer.
pub struct Range {
    first: u32,
    last: u32,
    value: String,
}

/// An address with its answers from the databases.
pub struct Inhabitant {
    pub address: Ipv4Addr,
    pub asn: u32,
    pub country: Option<String>,
}

pub struct Addresses {
    /// Full-size databases, not the tests' fixtures.
    pub real: bool,
    pub city: Vec<u8>,
    pub asn: Vec<u8>,
    pub countries: Vec<Range>,
    pub networks: Vec<Range>,
    /// Distinct addresses. The network of each address is drawn by Zipf's law.
    pub pool: Vec<Ipv4Addr>,
    /// Uniform over the public part of IPv4.
    pub sample: Vec<Ipv4Addr>,
}

impl Addresses {
    pub fn prepare(cluster: &Cluster) -> Self {
        let files = Files::below(cluster.files());
        let real = match full_size_databases() {
            Some((city, asn)) => {
                eprintln!("databases: {}, {}", city.display(), asn.display());
                std::fs::copy(city, &files.city).expect("the City database can be copied");
                std::fs::copy(asn, &files.asn).expect("the ASN database can be copied");
                true
            }
            None => {
                world::city_database().write(&files.city);
                world::asn_database().write(&files.asn);
                false
            }
        };
        cluster.reconfigure(&files.settings());
        let city = std::fs::read(&files.city).expect("the City database can be read");
        let asn = std::fs::read(&files.asn).expect("the ASN database can be read");
        let countries = ranges(&city, &COUNTRY_PATHS);
        let networks = ranges(&asn, &ASN_PATHS);
        let mut random = Random::seeded(42);
        Self {
            pool: pool(&networks, &mut random),
            sample: (0..SAMPLE).map(|_| public_address(&mut random)).collect(),
            real,
            city,
            asn,
            countries,
            networks,
        }
    }

    /// Stores the tables that every measurement uses: `pool` and `sample`.
    pub fn store(&self, db: &mut Session) {
        db.run(
            "CREATE TABLE pool (n int PRIMARY KEY, ip inet NOT NULL);
             CREATE TABLE sample (ip inet NOT NULL)",
        );
        let numbered: String = self.pool.iter().zip(1..).map(|(ip, n)| format!("{n}\t{ip}\n")).collect();
        db.copy("pool", &numbered);
        db.copy("sample", &lines(&self.sample));
        db.run("VACUUM (FREEZE, ANALYZE) pool, sample");
    }

    /// Stores the ranges in tables with a btree on the first address of a range, as a user without the extension would
    /// do.
    pub fn store_ranges(&self, db: &mut Session) {
        for (table, ranges) in [("country_ranges", &self.countries), ("asn_ranges", &self.networks)] {
            db.run(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (first inet PRIMARY KEY, last inet NOT NULL, value text NOT NULL)"
            ));
            if db.number(&format!("SELECT count(*) FROM {table}")) == 0 {
                let text: String = ranges
                    .iter()
                    .map(|r| {
                        let (first, last) = (Ipv4Addr::from(r.first), Ipv4Addr::from(r.last));
                        format!("{first}\t{last}\t{}\n", r.value)
                    })
                    .collect();
                db.copy(table, &text);
                db.run(&format!("VACUUM (FREEZE, ANALYZE) {table}"));
            }
        }
    }

    /// Returns the given number of addresses, each with its network and country. They belong to exactly the given
    /// number of networks, or to all if there are fewer.
    pub fn population(&self, count: usize, networks: usize) -> Vec<Inhabitant> {
        let mut random = Random::seeded(2_024);
        let mut by_network = shuffled(&self.networks, &mut random);
        by_network.truncate(networks);
        let one_each = by_network
            .iter()
            .map(|(asn, ranges)| {
                let range: &Range = random.pick::<&Range>(ranges);
                (address_in(range, &mut random), *asn)
            })
            .collect();
        let mut drawn = draw(&by_network, one_each, count, &mut random);
        for i in (1..drawn.len()).rev() {
            drawn.swap(i, random.below(i as u64 + 1) as usize);
        }
        let inhabitant = |(address, asn): (Ipv4Addr, &str)| Inhabitant {
            address,
            asn: asn.parse().expect("a network is a number"),
            country: self.country(address),
        };
        drawn.into_iter().map(inhabitant).collect()
    }

    fn country(&self, address: Ipv4Addr) -> Option<String> {
        let number = u32::from(address);
        let after = self.countries.partition_point(|range| range.first <= number);
        let range = &self.countries[after.checked_sub(1)?];
        (number <= range.last).then(|| range.value.clone())
    }

    /// Returns public addresses that have a network and are not in the pool. They are different for every `part`.
    pub fn others(&self, part: u64, count: usize) -> Vec<Ipv4Addr> {
        let mut random = Random::seeded(1_000 + part);
        let mut known: std::collections::HashSet<Ipv4Addr> = self.pool.iter().copied().collect();
        let mut others = Vec::with_capacity(count);
        while others.len() < count {
            let range = &self.networks[random.below(self.networks.len() as u64) as usize];
            let address = address_in(range, &mut random);
            if known.insert(address) {
                others.push(address);
            }
        }
        others
    }
}

pub fn lines(addresses: &[Ipv4Addr]) -> String {
    addresses.iter().map(|ip| format!("{ip}\n")).collect()
}

/// Returns the path that the caller names, else the fetched file, else `None`.
fn full_size_databases() -> Option<(PathBuf, PathBuf)> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let (Some(city), Some(asn)) = (named("CITY_DATABASE"), named("ASN_DATABASE")) {
        return Some((city, asn));
    }
    let directory = workspace().join("target/real");
    let find = || Some((like(&directory, "city")?, like(&directory, "asn")?));
    find().or_else(|| {
        let script = workspace().join("scripts/fetch-real-databases");
        let fetched = Command::new(script).status();
        fetched.is_ok_and(|s| s.success()).then(find).flatten()
    })
}

/// Finds an mmdb file whose name contains the word.
fn like(directory: &Path, word: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.to_lowercase();
            name.contains(word) && name.ends_with(".mmdb")
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

/// All IPv4 networks with an answer. Neighbours with the same answer are merged.
fn ranges(database: &[u8], paths: &[&[PathElement<'_>]]) -> Vec<Range> {
    let reader = Reader::from_source(database).expect("the database is valid");
    let mut values: HashMap<usize, Option<String>> = HashMap::new();
    let mut ranges: Vec<Range> = Vec::new();
    for found in reader.networks(WithinOptions::default()).expect("the tree can be walked") {
        let found = found.expect("the tree can be walked");
        let network = found.network().expect("the tree can be walked");
        let (IpAddr::V4(first), IpAddr::V4(last)) = (network.network(), network.broadcast()) else {
            continue;
        };
        let Some(offset) = found.offset() else {
            continue;
        };
        let value = values.entry(offset).or_insert_with(|| {
            let value: Option<serde_json::Value> =
                paths.iter().find_map(|path| found.decode_path(path).expect("the record can be decoded"));
            value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
        });
        let Some(value) = value else { continue };
        let (first, last) = (u32::from(first), u32::from(last));
        match ranges.last_mut() {
            Some(range) if range.last.wrapping_add(1) == first && range.value == *value => {
                range.last = last;
            }
            _ => ranges.push(Range { first, last, value: value.clone() }),
        }
    }
    ranges
}

/// Draws distinct addresses. The network of each address is drawn by Zipf's law with s = 1.
fn pool(networks: &[Range], random: &mut Random) -> Vec<Ipv4Addr> {
    let by_network = shuffled(networks, random);
    draw(&by_network, Vec::new(), POOL, random).into_iter().map(|(address, _)| address).collect()
}

/// Returns the networks in random order, each with its ranges.
fn shuffled<'a>(networks: &'a [Range], random: &mut Random) -> Vec<(&'a str, Vec<&'a Range>)> {
    let mut by_network: HashMap<&str, Vec<&Range>> = HashMap::new();
    for range in networks {
        by_network.entry(&range.value).or_default().push(range);
    }
    let mut by_network: Vec<(&str, Vec<&Range>)> = by_network.into_iter().collect();
    by_network.sort_by_key(|(asn, _)| *asn);
    for i in (1..by_network.len()).rev() {
        by_network.swap(i, random.below(i as u64 + 1) as usize);
    }
    by_network
}

/// Adds addresses to `drawn` until it has `count` of them. The rank of a network in `by_network` is drawn by Zipf's
/// law.
fn draw<'a>(
    by_network: &[(&'a str, Vec<&'a Range>)],
    mut drawn: Vec<(Ipv4Addr, &'a str)>,
    count: usize,
    random: &mut Random,
) -> Vec<(Ipv4Addr, &'a str)> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=by_network.len())
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let mut taken: std::collections::HashSet<Ipv4Addr> = drawn.iter().map(|(address, _)| *address).collect();
    let mut refused = 0;
    while drawn.len() < count {
        let u = (random.number() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        let rank = cumulative.partition_point(|c| *c < u).min(by_network.len() - 1);
        let (asn, ranges) = &by_network[rank];
        let address = {
            let range: &Range = random.pick::<&Range>(ranges);
            address_in(range, random)
        };
        if taken.insert(address) {
            drawn.push((address, asn));
        } else {
            // The drawn address is taken already. This can happen often if a frequent network is smaller than its
            // share.
            refused += 1;
            assert!(refused < 10 * count, "the networks are too small");
        }
    }
    drawn
}

fn address_in(range: &Range, random: &mut Random) -> Ipv4Addr {
    let size = u64::from(range.last - range.first) + 1;
    Ipv4Addr::from(range.first + random.below(size) as u32)
}

fn public_address(random: &mut Random) -> Ipv4Addr {
    loop {
        let address = Ipv4Addr::from(random.number() as u32);
        let [a, b, ..] = address.octets();
        let special = a == 0
            || a >= 224
            || address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_documentation()
            || a == 100 && b & 0xc0 == 64
            || a == 198 && b & 0xfe == 18
            || a == 192 && b == 0;
        if !special {
            return address;
        }
    }
}
