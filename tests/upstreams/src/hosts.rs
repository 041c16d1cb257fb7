//! The data that GreyNoise, DShield and SPUR have about addresses.
//!
//! A table is small and searched from end to end, as with routes. A synthetic internet needs no table: the data of an
//! address is computed from the address. So a test with ten thousand addresses can check every stored answer.

use std::net::IpAddr;

use crate::prefix::{Prefix, is_public, masked};

/// The data of all three services about one address. If a value is `None` or empty, the service does not know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// GreyNoise: `benign`, `malicious`, `suspicious` or `unknown` if the address was seen scanning, otherwise `None`.
    pub classification: Option<String>,
    /// GreyNoise: the name of the scanner or of the business service.
    pub name: Option<String>,
    /// GreyNoise: a common business service.
    pub riot: bool,
    /// DShield: two letters or the empty text. DShield sends both.
    pub country: Option<String>,
    pub asn: Option<u64>,
    pub as_name: Option<String>,
    /// DShield: the announced prefix.
    pub network: Option<String>,
    /// DShield: reports about the address (`count`) and targets that it attacked (`attacks`).
    pub reports: Option<Reports>,
    /// SPUR: services that lead traffic of other users through the address.
    pub tunnels: Vec<Tunnel>,
    /// SPUR: `DATACENTER`, `RESIDENTIAL`, `MOBILE`, `BUSINESS`, …
    pub infrastructure: Option<String>,
    /// SPUR's `client.types`, kinds of devices: `DESKTOP`, `MOBILE`, …
    pub devices: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reports {
    pub count: u64,
    pub attacks: u64,
    /// DShield sends these numbers as texts, at times.
    pub as_text: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `VPN`, `TOR`, `PROXY`, or a kind that SPUR adds later.
    pub kind: String,
    pub operator: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Hosts {
    table: Vec<(Prefix, Host)>,
    synthetic: bool,
}

impl Hosts {
    /// Returns a table in which every address is unknown.
    pub fn empty() -> Hosts {
        Hosts::default()
    }

    /// Returns hosts computed by [`synthetic_noise`] and the other functions. Hosts that are added come first.
    pub fn synthetic() -> Hosts {
        Hosts { table: Vec::new(), synthetic: true }
    }

    /// Reads lines of tab-separated columns. `#` begins a comment line, and `-` is an unknown value. A first line of
    /// column names is optional:
    ///
    /// ```text
    /// prefix            classification  name    riot  country  asn     as_name  reports  attacks  tunnels               infrastructure  devices
    /// 162.142.125.0/24  benign          Censys  -     US       398324  CENSYS   5120     410      -                     DATACENTER      -
    /// 185.220.101.7     malicious       unknown -     DE       60729   TORSERV  880      95       TOR,VPN:NORD_VPN      DATACENTER      DESKTOP,MOBILE
    /// 8.8.8.0/24        -               Google  yes   US       15169   GOOGLE   -        -        -                     DATACENTER      -
    /// ```
    ///
    /// The first column is a prefix or an address. The longest prefix that holds an address gives all its data. Tunnels
    /// are `kind` or `kind:operator`. Only scanners have a classification. `riot` is `yes` or `-`.
    pub fn from_tsv(text: &str) -> Result<Hosts, String> {
        let mut hosts = Hosts::empty();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') || line.starts_with("prefix\t") {
                continue;
            }
            let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
            let [prefix, rest @ ..] = &columns[..] else { continue };
            let at = |column: &str, problem: String| format!("line {number}, {column}: {problem}");
            let Ok(rest) = <[&str; 11]>::try_from(rest) else {
                return Err(format!("line {number}: {} columns instead of 12", columns.len()));
            };
            let prefix =
                parse_prefix(prefix).ok_or_else(|| at("prefix", format!("not a prefix: \"{prefix}\"")))?;
            let mut host = parse_host(rest).map_err(|(column, problem)| at(column, problem))?;
            host.network = host.asn.map(|_| format!("{}/{}", prefix.network(), prefix.length()));
            hosts.table.push((prefix, host));
        }
        Ok(hosts)
    }

    /// # Panics
    /// When `prefix` is neither a prefix nor an address.
    pub fn add(&mut self, prefix: &str, host: Host) {
        let parsed = parse_prefix(prefix).unwrap_or_else(|| panic!("not a prefix: \"{prefix}\""));
        self.table.push((parsed, host));
    }

    /// Returns the host of the longest prefix that holds the address. If several prefixes have this length, returns
    /// the host of the first.
    pub fn of(&self, address: IpAddr) -> Host {
        let holding = self.table.iter().filter(|(prefix, _)| prefix.holds(address));
        // `max_by_key` takes the last of several equal prefixes.
        match holding.rev().max_by_key(|(prefix, _)| prefix.length()) {
            Some((_, host)) => host.clone(),
            None if self.synthetic => synthetic_host(address),
            None => Host::default(),
        }
    }
}

fn parse_prefix(text: &str) -> Option<Prefix> {
    Prefix::parse(text).or_else(|| text.parse().ok().map(Prefix::only))
}

type Misplaced = (&'static str, String);

fn parse_host(columns: [&str; 11]) -> Result<Host, Misplaced> {
    let [
        classification,
        name,
        riot,
        country,
        asn,
        as_name,
        reports,
        attacks,
        tunnels,
        infrastructure,
        devices,
    ] = columns;
    let known = |text: &str| (text != "-").then(|| text.to_owned());
    let number = |column: &'static str, text: &str| match text {
        "-" => Ok(None),
        _ => text.parse::<u64>().map(Some).map_err(|_| (column, format!("not a number: \"{text}\""))),
    };
    let list = |text: &str| -> Vec<String> {
        if text == "-" { Vec::new() } else { text.split(',').map(|item| item.trim().to_owned()).collect() }
    };
    let riot = match riot {
        "yes" => true,
        "-" => false,
        _ => return Err(("riot", format!("neither \"yes\" nor \"-\": \"{riot}\""))),
    };
    if !matches!(classification, "-" | "benign" | "malicious" | "suspicious" | "unknown") {
        return Err(("classification", format!("not one of GreyNoise's: \"{classification}\"")));
    }
    let reports = match (number("reports", reports)?, number("attacks", attacks)?) {
        (Some(count), Some(attacks)) => Some(Reports { count, attacks, as_text: false }),
        (None, None) => None,
        _ => return Err(("attacks", "reports and attacks go together".to_owned())),
    };
    let tunnels = list(tunnels)
        .iter()
        .map(|tunnel| match tunnel.split_once(':') {
            Some((kind, operator)) => Tunnel { kind: kind.to_owned(), operator: Some(operator.to_owned()) },
            None => Tunnel { kind: tunnel.clone(), operator: None },
        })
        .collect();
    Ok(Host {
        classification: known(classification),
        name: known(name),
        riot,
        country: known(country),
        asn: number("asn", asn)?,
        as_name: known(as_name),
        network: None,
        reports,
        tunnels,
        infrastructure: known(infrastructure),
        devices: list(devices),
    })
}

/// Returns `Some(true)` if GreyNoise has seen the address scanning, which is about a third of all addresses.
/// `Some(false)` is a business service that does not scan. `None` is unknown: the answer is 404, or 400 if the address
/// is not a public IPv4 address.
pub fn synthetic_noise(address: IpAddr) -> Option<bool> {
    if !address.is_ipv4() || !is_public(address) {
        return None;
    }
    match draw(address, "noise", 10) {
        0..=3 => Some(true),
        4 => Some(false),
        _ => None,
    }
}

/// Returns GreyNoise's classification: one of four for a scanner, `benign` for a business service.
pub fn synthetic_classification(address: IpAddr) -> Option<&'static str> {
    const CLASSES: [&str; 4] = ["malicious", "benign", "unknown", "suspicious"];
    match synthetic_noise(address)? {
        true => Some(CLASSES[draw(address, "classification", 4)]),
        false => Some("benign"),
    }
}

/// Returns the type that takes precedence among all types in SPUR's answer. The order of precedence is VPN, TOR, PROXY,
/// DATACENTER, RESIDENTIAL, MOBILE.
pub fn synthetic_ip_type(address: IpAddr) -> Option<&'static str> {
    const TYPES: [&str; 6] = ["VPN", "TOR", "PROXY", "DATACENTER", "RESIDENTIAL", "MOBILE"];
    if is_public(address) { TYPES.get(draw(address, "spur", 8)).copied() } else { None }
}

/// Returns the country in DShield's answer about the address. `None` if the country is missing or empty there.
pub fn synthetic_dshield_country(address: IpAddr) -> Option<&'static str> {
    const COUNTRIES: [&str; 7] = ["US", "CN", "DE", "RU", "BR", "VN", "NL"];
    // There are seven countries and nine numbers. For number 7 DShield sends an empty country, and for number 8 it
    // sends no data.
    if is_public(address) { COUNTRIES.get(draw(address, "dshield", 9)).copied() } else { None }
}

/// Returns DShield's network of the address; `None` where DShield has no data about the address.
pub fn synthetic_dshield_asn(address: IpAddr) -> Option<u64> {
    (is_public(address) && draw(address, "dshield", 9) != 8)
        .then(|| 3_000_000 + draw(address, "asn", 1000) as u64)
}

/// Returns the number of attacks that were reported to DShield. About half the addresses with data have no report.
pub fn synthetic_dshield_attacks(address: IpAddr) -> Option<u64> {
    let reported = synthetic_dshield_asn(address).is_some() && draw(address, "reported", 2) == 0;
    reported.then(|| 1 + draw(address, "attacks", 500) as u64)
}

fn synthetic_host(address: IpAddr) -> Host {
    let noise = synthetic_noise(address);
    let asn = synthetic_dshield_asn(address);
    let leading = synthetic_ip_type(address);
    let tunnel = |kind: &str, operator: Option<&str>| Tunnel {
        kind: kind.to_owned(),
        operator: operator.map(str::to_owned),
    };
    // The first tunnel must not be the type that takes precedence, so that a client cannot just use the first one.
    let tunnels = match leading {
        Some("VPN") => vec![tunnel("PROXY", Some("SYNTH_PROXY")), tunnel("VPN", Some("SYNTH_VPN"))],
        Some("TOR") => vec![tunnel("PROXY", None), tunnel("TOR", None)],
        Some("PROXY") => vec![tunnel("PROXY", Some("SYNTH_PROXY"))],
        _ => Vec::new(),
    };
    let infrastructure = match leading {
        Some("VPN" | "TOR") => Some("DATACENTER"),
        Some("PROXY") => Some("RESIDENTIAL"),
        other => other,
    };
    // Devices must not be mistaken for the type: many VPNs that are hosted in a data center have a MOBILE device.
    let devices =
        if leading.is_some() { vec!["MOBILE".to_owned(), "DESKTOP".to_owned()] } else { Vec::new() };
    Host {
        classification: synthetic_classification(address).filter(|_| noise == Some(true)).map(str::to_owned),
        name: noise.map(|scans| if scans { "unknown" } else { "Synthetic Service" }.to_owned()),
        riot: noise == Some(false),
        country: asn.map(|_| synthetic_dshield_country(address).unwrap_or_default().to_owned()),
        asn,
        as_name: asn.map(|asn| format!("SYNTH-{asn}")),
        network: asn.map(|_| {
            let length = if address.is_ipv4() { 24 } else { 48 };
            format!("{}/{length}", masked(address, length))
        }),
        reports: synthetic_dshield_attacks(address).map(|attacks| Reports {
            count: attacks * 3,
            attacks,
            as_text: attacks.is_multiple_of(2),
        }),
        tunnels,
        infrastructure: infrastructure.map(str::to_owned),
        devices,
    }
}

/// Returns a number below `sides` that depends only on the address and the purpose. Neighbouring addresses have
/// unrelated numbers.
fn draw(address: IpAddr, purpose: &str, sides: usize) -> usize {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    purpose.bytes().for_each(&mut take);
    match address {
        IpAddr::V4(v4) => v4.octets().into_iter().for_each(take),
        IpAddr::V6(v6) => v6.octets().into_iter().for_each(take),
    }
    // Mixes the high bits in, because the low bits of such a product depend on the last byte alone.
    state ^= state >> 32;
    state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (state >> 33) as usize % sides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_says_all() {
        let hosts = Hosts::from_tsv(
            "# a comment\nprefix\tclassification\n\
             8.0.0.0/8\tbenign\tLevel\t-\tUS\t3356\tLEVEL3\t7\t3\t-\tBUSINESS\t-\n\
             8.8.8.8\t-\tGoogle\tyes\t-\t-\t-\t-\t-\tTOR,VPN:NORD_VPN\t-\tMOBILE,DESKTOP\n\
             2a00::/16\t-\t-\t-\t-\t-\t-\t-\t-\t-\tMOBILE\t-\n",
        )
        .unwrap();
        let wide = hosts.of(ip("8.8.8.9"));
        assert_eq!(
            (wide.classification.as_deref(), wide.riot, wide.asn),
            (Some("benign"), false, Some(3356))
        );
        assert_eq!(wide.reports, Some(Reports { count: 7, attacks: 3, as_text: false }));
        assert_eq!(wide.network.as_deref(), Some("8.0.0.0/8"));
        let one = hosts.of(ip("8.8.8.8"));
        assert_eq!((one.classification, one.name.as_deref(), one.riot), (None, Some("Google"), true));
        assert_eq!((one.country, one.asn, one.reports), (None, None, None));
        let tunnels: Vec<_> =
            one.tunnels.iter().map(|tunnel| (tunnel.kind.as_str(), tunnel.operator.as_deref())).collect();
        assert_eq!(tunnels, [("TOR", None), ("VPN", Some("NORD_VPN"))]);
        assert_eq!(one.devices, ["MOBILE", "DESKTOP"]);
        assert_eq!(hosts.of(ip("2a00::1")).infrastructure.as_deref(), Some("MOBILE"));
        assert_eq!(hosts.of(ip("9.9.9.9")), Host::default());
    }

    #[test]
    fn errors_say_where() {
        let told = |text: &str| Hosts::from_tsv(text).unwrap_err();
        assert_eq!(told("1.0.0.0/8\tbenign\n"), "line 1: 2 columns instead of 12");
        assert_eq!(
            told("\n8.8.8.8/8\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\n"),
            "line 2, prefix: not a prefix: \"8.8.8.8/8\""
        );
        assert_eq!(told("8.8.8.8\t-\t-\t-\t-\tx\t-\t-\t-\t-\t-\t-\n"), "line 1, asn: not a number: \"x\"");
        assert_eq!(
            told("8.8.8.8\tbad\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\n"),
            "line 1, classification: not one of GreyNoise's: \"bad\""
        );
        assert_eq!(
            told("8.8.8.8\t-\t-\tno\t-\t-\t-\t-\t-\t-\t-\t-\n"),
            "line 1, riot: neither \"yes\" nor \"-\": \"no\""
        );
        assert!(told("8.8.8.8\t-\t-\t-\t-\t-\t-\t5\t-\t-\t-\t-\n").contains("go together"));
    }

    #[test]
    fn a_synthetic_host_is_what_the_functions_say_and_all_kinds_occur() {
        let hosts = Hosts::synthetic();
        let mut noise = [0; 3];
        let mut types = std::collections::HashMap::new();
        let (mut without_country, mut without_asn, mut attacked) = (0, 0, 0);
        for n in 0..2000_u32 {
            let address = IpAddr::V4((0x0b00_0000 + n * 256 + 1).into());
            let host = hosts.of(address);
            assert_eq!(host, hosts.of(address));
            noise[synthetic_noise(address).map_or(2, usize::from)] += 1;
            assert_eq!(host.classification.is_some(), synthetic_noise(address) == Some(true));
            assert_eq!(host.riot, synthetic_noise(address) == Some(false));
            *types.entry(synthetic_ip_type(address)).or_insert(0) += 1;
            let country = host.country.as_deref().filter(|country| !country.is_empty());
            assert_eq!(country, synthetic_dshield_country(address));
            assert_eq!(host.asn, synthetic_dshield_asn(address));
            assert_eq!(host.reports.map(|reports| reports.attacks), synthetic_dshield_attacks(address));
            without_country += usize::from(host.country.as_deref() == Some(""));
            without_asn += usize::from(host.asn.is_none());
            attacked += usize::from(host.reports.is_some());
        }
        assert!(noise.iter().all(|count| *count > 100), "{noise:?}");
        assert!(types.len() == 7 && types.values().all(|count| *count > 100), "{types:?}");
        assert!(without_country > 100 && without_asn > 100 && attacked > 500);
        for unknown in ["10.0.0.1", "fe80::1"] {
            assert_eq!(hosts.of(ip(unknown)), Host::default(), "{unknown}");
        }
        assert_eq!(synthetic_noise(ip("2a00::1")), None);
    }
}
