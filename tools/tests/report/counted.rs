//! Counts the sessions of the bundled log in another way than the product: it reads the events and the list of networks
//! itself, and uses no code of the loader, the extension or the report.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::support::{bundled, checkout};

pub struct Session {
    pub address: Option<IpAddr>,
    pub time: String,
    pub sensor: String,
    pub country: Option<String>,
    pub asn: Option<i64>,
    pub passwords: BTreeSet<String>,
    pub commands: BTreeSet<String>,
    pub logins: u64,
    pub successes: u64,
}

/// Returns the sessions of the bundled log, by id.
pub fn sessions() -> BTreeMap<String, Session> {
    let networks = networks();
    let file = std::fs::File::open(bundled()).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut sessions = BTreeMap::new();
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let field = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    for event in events.iter().filter(|event| event["eventid"] == "cowrie.session.connect") {
        let address = address(event["src_ip"].as_str().unwrap());
        let place = address.and_then(|address| place_of(address, &networks));
        sessions.entry(field(event, "session")).or_insert(Session {
            address,
            time: field(event, "timestamp"),
            sensor: field(event, "sensor"),
            country: place.and_then(|network| network.country.clone()),
            asn: place_with(address, &networks, |network| network.asn),
            passwords: BTreeSet::new(),
            commands: BTreeSet::new(),
            logins: 0,
            successes: 0,
        });
    }
    for event in &events {
        let Some(session) = sessions.get_mut(&field(event, "session")) else { continue };
        match event["eventid"].as_str().unwrap_or_default() {
            kind @ ("cowrie.login.success" | "cowrie.login.failed") => {
                session.logins += 1;
                session.successes += u64::from(kind.ends_with("success"));
                session.passwords.insert(field(event, "password"));
            }
            "cowrie.command.input" | "cowrie.session.input" => {
                session.commands.insert(field(event, "input"));
            }
            _ => {}
        }
    }
    sessions
}

struct Network {
    bits: u128,
    length: u32,
    is_v4: bool,
    country: Option<String>,
    asn: Option<i64>,
}

fn networks() -> Vec<Network> {
    let text = std::fs::read_to_string(checkout().join("demo/networks-before.tsv")).unwrap();
    let mut networks = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let Some((first, length)) = fields[0].split_once('/') else { continue };
        let first: IpAddr = first.parse().unwrap();
        let value = |text: &str| (!text.is_empty() && text != "-").then(|| text.to_owned());
        networks.push(Network {
            bits: bits(first),
            length: length.parse().unwrap(),
            is_v4: first.is_ipv4(),
            country: value(fields[1]),
            asn: value(fields[7]).map(|asn| asn.parse().unwrap()),
        });
    }
    networks
}

/// The bits of an address, the first at the top.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

fn contains(network: &Network, address: IpAddr) -> bool {
    network.is_v4 == address.is_ipv4()
        && (network.length == 0 || (network.bits ^ bits(address)) >> (128 - network.length) == 0)
}

/// Returns the most specific network.
fn place_of(address: IpAddr, networks: &[Network]) -> Option<&Network> {
    networks.iter().filter(|network| contains(network, address)).max_by_key(|network| network.length)
}

fn place_with<T>(
    address: Option<IpAddr>,
    networks: &[Network],
    value: impl Fn(&Network) -> Option<T>,
) -> Option<T> {
    place_of(address?, networks).and_then(value)
}

/// Reads an address of the log. An IPv4 address that is written as an IPv6 address is an IPv4 address. A zone, such as
/// `%eth0`, is not a part of the address.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    let address: Ipv6Addr = text.split('%').next()?.parse().ok()?;
    Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
}

/// Numbers of sessions and addresses by a value of the sessions, in descending order of sessions.
pub fn by<'a, K: Ord + Clone>(
    sessions: impl Iterator<Item = &'a Session>,
    value: impl Fn(&Session) -> Vec<K>,
) -> BTreeMap<K, (u64, u64)> {
    let mut counted: BTreeMap<K, (u64, BTreeSet<IpAddr>)> = BTreeMap::new();
    for session in sessions {
        for value in value(session) {
            let entry = counted.entry(value).or_default();
            entry.0 += 1;
            entry.1.extend(session.address);
        }
    }
    counted
        .into_iter()
        .map(|(value, (sessions, addresses))| (value, (sessions, addresses.len() as u64)))
        .collect()
}
