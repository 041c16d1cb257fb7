//! Which address belongs to which network.
//!
//! A table is small and searched from end to end. A synthetic internet needs no table, because the network of an
//! address is computed from the address. So a test with ten thousand networks can check every stored answer by itself.

use std::net::IpAddr;

use crate::prefix::{Prefix, is_public, masked};

/// One origin of one prefix, with the columns that Team Cymru gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: String,
    /// Has more bits than an AS number, so that a number that is too large can be announced.
    pub asn: u64,
    /// Two letters, or empty.
    pub country: String,
    /// `arin`, `ripencc`, `apnic`, `lacnic`, `afrinic`, `other`, or empty.
    pub registry: String,
    /// `YYYY-MM-DD`, or empty.
    pub allocated: String,
    pub name: String,
}

#[derive(Clone, Debug, Default)]
pub struct Routes {
    table: Vec<(Prefix, Route)>,
    /// Facts about networks that differ from the facts about their prefixes. The prefix of such a route is empty.
    networks: Vec<Route>,
    synthetic: bool,
}

impl Routes {
    /// Returns a table without routes: every answer is NA.
    pub fn empty() -> Routes {
        Routes::default()
    }

    /// Returns a table in which every public /24 (IPv4) and /48 (IPv6) belongs to a network that is computed from it,
    /// see [`synthetic_asn`]. Routes that are added come first, regardless of their length.
    pub fn synthetic() -> Routes {
        Routes { synthetic: true, ..Routes::default() }
    }

    /// Reads lines of tab-separated columns; `#` begins a comment line, and a first line of column names is optional:
    ///
    /// ```text
    /// prefix        asn    country  registry  allocated   name
    /// 8.8.8.0/24    15169  US       arin      2023-12-28  GOOGLE, US
    /// ```
    ///
    /// Several lines of one prefix are several origins. A line with the prefix `-` describes the network itself: the
    /// facts that the service returns about its number.
    pub fn from_tsv(text: &str) -> Result<Routes, String> {
        let mut routes = Routes::empty();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') || line.starts_with("prefix\t") {
                continue;
            }
            let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
            let [prefix, asn, country, registry, allocated, name] = columns[..] else {
                return Err(format!("line {number}: {} columns instead of 6", columns.len()));
            };
            let asn = asn.parse().map_err(|_| format!("line {number}, asn: not a number: \"{asn}\""))?;
            if prefix == "-" {
                routes.add_network(asn, country, registry, allocated, name);
                continue;
            }
            routes
                .try_add(prefix, asn, country, registry, allocated, name)
                .map_err(|problem| format!("line {number}, prefix: {problem}"))?;
        }
        Ok(routes)
    }

    /// Adds facts about a network, which need not announce a prefix.
    pub fn add_network(&mut self, asn: u64, country: &str, registry: &str, allocated: &str, name: &str) {
        self.networks.push(Route {
            prefix: String::new(),
            asn,
            country: country.to_owned(),
            registry: registry.to_owned(),
            allocated: allocated.to_owned(),
            name: name.to_owned(),
        });
    }

    /// # Panics
    /// When `prefix` is not a prefix.
    pub fn add(
        &mut self,
        prefix: &str,
        asn: u64,
        country: &str,
        registry: &str,
        allocated: &str,
        name: &str,
    ) {
        if let Err(problem) = self.try_add(prefix, asn, country, registry, allocated, name) {
            panic!("{problem}");
        }
    }

    fn try_add(
        &mut self,
        prefix: &str,
        asn: u64,
        country: &str,
        registry: &str,
        allocated: &str,
        name: &str,
    ) -> Result<(), String> {
        let parsed = Prefix::parse(prefix).ok_or_else(|| format!("not a prefix: \"{prefix}\""))?;
        let route = Route {
            prefix: prefix.to_owned(),
            asn,
            country: country.to_owned(),
            registry: registry.to_owned(),
            allocated: allocated.to_owned(),
            name: name.to_owned(),
        };
        self.table.push((parsed, route));
        Ok(())
    }

    /// Returns all origins of the longest prefix that holds the address, in the order in which they were added.
    pub fn of(&self, address: IpAddr) -> Vec<Route> {
        let holding = || self.table.iter().filter(|(prefix, _)| prefix.holds(address));
        if let Some(longest) = holding().map(|(prefix, _)| prefix.length()).max() {
            return holding()
                .filter(|(prefix, _)| prefix.length() == longest)
                .map(|(_, route)| route.clone())
                .collect();
        }
        if self.synthetic && is_public(address) { vec![synthetic_route(address)] } else { Vec::new() }
    }

    /// Returns a route of this network, for its country, registry, date and name.
    pub fn by_asn(&self, asn: u64) -> Option<Route> {
        let routes = self.networks.iter().chain(self.table.iter().map(|(_, route)| route));
        let listed = routes.into_iter().find(|route| route.asn == asn).cloned();
        listed.or_else(|| {
            let invented = (V4_BASE..V4_BASE + 0x1_0000).contains(&asn)
                || (V6_BASE..V6_BASE + V6_NETWORKS).contains(&asn);
            (self.synthetic && invented).then(|| described(asn, String::new()))
        })
    }
}

/// No registry has assigned the numbers between these two.
const V4_BASE: u64 = 1_000_000;
const V6_BASE: u64 = 2_000_000;
const V6_NETWORKS: u64 = 1_000_000;

/// Returns the network of an address in the synthetic internet. The address need not be public.
pub fn synthetic_asn(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets().map(u64::from);
            V4_BASE + a * 256 + b
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments().map(u64::from);
            V6_BASE + (a * 961 + b * 31 + c) % V6_NETWORKS
        }
    }
}

pub fn synthetic_country(asn: u64) -> &'static str {
    synthetic_owner(asn).0
}

pub fn synthetic_name(asn: u64) -> String {
    format!("SYNTH-{asn} - Synthetic network, {}", synthetic_country(asn))
}

fn synthetic_owner(asn: u64) -> (&'static str, &'static str) {
    const OWNERS: [(&str, &str); 7] = [
        ("US", "arin"),
        ("DE", "ripencc"),
        ("JP", "apnic"),
        ("BR", "lacnic"),
        ("ZA", "afrinic"),
        ("NL", "ripencc"),
        ("KR", "apnic"),
    ];
    OWNERS[(asn % OWNERS.len() as u64) as usize]
}

fn synthetic_route(address: IpAddr) -> Route {
    let length = if address.is_ipv4() { 24 } else { 48 };
    described(synthetic_asn(address), format!("{}/{length}", masked(address, length)))
}

fn described(asn: u64, prefix: String) -> Route {
    let (country, registry) = synthetic_owner(asn);
    Route {
        prefix,
        asn,
        country: country.to_owned(),
        registry: registry.to_owned(),
        allocated: "2020-02-20".to_owned(),
        name: synthetic_name(asn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_answers_with_all_its_origins() {
        let routes = Routes::from_tsv(
            "# a comment\nprefix\tasn\tcountry\tregistry\tallocated\tname\n\
             8.0.0.0/9\t3356\tUS\tarin\t1992-12-01\tLEVEL3, US\n\
             8.8.8.0/24\t15169\tUS\tarin\t2023-12-28\tGOOGLE, US\n\
             8.8.8.0/24\t64500\t\t\t\tOTHER\n\
             2001:4860::/32\t15169\tUS\tarin\t2005-03-14\tGOOGLE, US\n\
             -\t3356\tUS\tarin\t2000-03-10\tLEVEL3, US\n\
             0.0.0.0/0\t1\t\t\t\tDEFAULT\n",
        )
        .unwrap();
        let asns = |address: &str| routes.of(ip(address)).iter().map(|route| route.asn).collect::<Vec<_>>();
        assert_eq!(asns("8.8.8.8"), [15169, 64500]);
        assert_eq!(asns("8.8.9.8"), [3356]);
        assert_eq!(asns("9.9.9.9"), [1]);
        assert_eq!(asns("2001:4860:4860::8888"), [15169]);
        assert!(asns("2001:4861::1").is_empty());
        assert_eq!(routes.by_asn(15169).unwrap().name, "GOOGLE, US");
        assert_eq!(routes.by_asn(3356).unwrap().allocated, "2000-03-10");
    }

    #[test]
    fn the_synthetic_network_is_computed_from_the_address() {
        let routes = Routes::synthetic();
        let route = routes.of(ip("11.2.3.4")).remove(0);
        assert_eq!((route.asn, route.prefix.as_str()), (1_000_000 + 11 * 256 + 2, "11.2.3.0/24"));
        assert_eq!(route.name, format!("SYNTH-{} - Synthetic network, {}", route.asn, route.country));
        let route = routes.of(ip("2a00:1:2:3::4")).remove(0);
        assert_eq!((route.asn, route.prefix.as_str()), (synthetic_asn(ip("2a00:1:2::")), "2a00:1:2::/48"));
        assert_eq!(routes.by_asn(route.asn).unwrap().name, route.name);
        for bogon in ["10.0.0.1", "192.0.2.1", "100.64.0.1", "fe80::1", "2001:db8::1"] {
            assert_eq!(routes.of(ip(bogon)), [], "{bogon}");
        }
    }

    #[test]
    fn errors_say_where() {
        let told = |text: &str| Routes::from_tsv(text).unwrap_err();
        assert_eq!(told("1.0.0.0/8\t1\n"), "line 1: 2 columns instead of 6");
        assert_eq!(told("\n1.0.0.0/8\tx\t\t\t\t\n"), "line 2, asn: not a number: \"x\"");
        assert_eq!(told("1.0.0.1/8\t1\t\t\t\t\n"), "line 1, prefix: not a prefix: \"1.0.0.1/8\"");
        assert!(told("1.0.0.0/33\t1\t\t\t\t\n").contains("not a prefix"));
    }
}
