//! Implements `Provider` for Team Cymru.
//!
//! The other files of this folder implement the protocol. This file adapts the protocol to the interface that all
//! providers have.

use super::network::without_country;
use super::{
    CymruReply, CymruSettings, MOST_ADDRESSES, Network, NetworkAnswer, NetworkReply, NetworkRequest, Route,
    RouteAnswer, RouteReply, RouteRequest, Transport,
};
use crate::address::Address;
use crate::net::{Cancel, Failure, Task};
use crate::prefix::Prefix;
use crate::providers::setting::{Kind, Setting, Settings, Unit};
use crate::providers::{self, Finding, Lifetimes, Limits, NetworkInfo, Provider, Purpose, Registry};
use crate::rate::Rate;
use serde_json::{Map, Value};
use std::time::Duration;

pub struct TeamCymru;

static WHOIS_HOST: Setting = Setting {
    name: c"cowrie_enrich.cymru_whois_host",
    short: c"Host name of Team Cymru's bulk whois service.",
    long: c"",
    kind: Kind::Text { default: Some(c"whois.cymru.com") },
    guarded: true,
};

static WHOIS_PORT: Setting = Setting {
    name: c"cowrie_enrich.cymru_whois_port",
    short: c"TCP port of Team Cymru's bulk whois service.",
    long: c"",
    kind: Kind::Number { default: 43, least: 1, most: 65_535, unit: Unit::None },
    guarded: true,
};

static DNS_SERVER: Setting = Setting {
    name: c"cowrie_enrich.cymru_dns_server",
    short: c"DNS server (host:port) for lookups at Team Cymru over DNS.",
    long: c"If the setting is empty, the first name server of the operating system is used.",
    kind: Kind::Text { default: None },
    guarded: true,
};

/// The transports, in the order in which the setting lists its words.
const TRANSPORTS: [Transport; 3] = [Transport::Auto, Transport::Whois, Transport::Dns];

static TRANSPORT: Setting = Setting {
    name: c"cowrie_enrich.cymru_transport",
    short: c"Protocol of lookups at Team Cymru: 'auto', 'whois' or 'dns'.",
    long: c"'auto' means whois while the whois service can be reached, otherwise DNS.",
    kind: Kind::Choice { default: 0, words: &[c"auto", c"whois", c"dns"] },
    guarded: false,
};

static BATCH_SIZE: Setting = Setting {
    name: c"cowrie_enrich.cymru_batch_size",
    short: c"Maximum number of addresses, or of networks, in one request to Team Cymru.",
    long: c"",
    kind: Kind::Number { default: 500, least: 1, most: MOST_ADDRESSES as i32, unit: Unit::None },
    guarded: false,
};

static MAX_CONNECTIONS: Setting = Setting {
    name: c"cowrie_enrich.cymru_max_connections",
    short: c"Maximum number of simultaneous requests to Team Cymru.",
    long: c"The limit applies to all databases of the cluster together.",
    kind: Kind::Number { default: 2, least: 1, most: 16, unit: Unit::None },
    guarded: false,
};

static TIMEOUT: Setting = Setting {
    name: c"cowrie_enrich.cymru_timeout",
    short: c"Maximum duration of one request to Team Cymru.",
    long: c"",
    kind: Kind::Number { default: 30_000, least: 100, most: 600_000, unit: Unit::Milliseconds },
    guarded: false,
};

static RATE: Setting = Setting {
    name: c"cowrie_enrich.cymru_rate",
    short: c"Maximum number of requests to Team Cymru per minute.",
    long:
        c"The limit counts requests, not addresses: one request contains up to cymru_batch_size addresses. \
        All databases of the cluster together must stay within the limit. A value of 0 means no limit.",
    kind: Kind::Number { default: 60, least: 0, most: 60_000, unit: Unit::None },
    guarded: false,
};

static NETWORKS: Setting = Setting {
    name: c"cowrie_enrich.cymru_networks",
    short: c"Looks up the registry, the country of registration and the name of each network at Team Cymru.",
    long:
        c"The worker sends the AS number of each network in asn_inventory once, and again when the answer has expired. \
        If the setting is off, the worker does not send lookups of networks. Waiting lookups stay in the queue.",
    kind: Kind::Switch { default: true },
    guarded: false,
};

static TTL: Setting = Setting {
    name: c"cowrie_enrich.cymru_ttl",
    short: c"How long a Team Cymru answer about an address or a network stays valid.",
    long: c"",
    kind: Kind::Number { default: 90 * 86_400, least: 60, most: i32::MAX, unit: Unit::Seconds },
    guarded: false,
};

static ABSENT_TTL: Setting = Setting {
    name: c"cowrie_enrich.cymru_absent_ttl",
    short: c"How long a negative Team Cymru answer stays valid.",
    long: c"A negative answer says that no network announces the address, or that no registry has allocated the AS number.",
    kind: Kind::Number { default: 7 * 86_400, least: 60, most: i32::MAX, unit: Unit::Seconds },
    guarded: false,
};

static SETTINGS: &[&Setting] = &[
    &WHOIS_HOST,
    &WHOIS_PORT,
    &DNS_SERVER,
    &TRANSPORT,
    &BATCH_SIZE,
    &MAX_CONNECTIONS,
    &TIMEOUT,
    &RATE,
    &NETWORKS,
    &TTL,
    &ABSENT_TTL,
];

/// Converts the values of the settings.
pub fn settings(settings: &Settings) -> CymruSettings {
    let transport = usize::try_from(settings.number(&TRANSPORT)).unwrap_or_default();
    CymruSettings {
        transport: TRANSPORTS.get(transport).copied().unwrap_or(Transport::Auto),
        whois_host: settings.text(&WHOIS_HOST).unwrap_or_default(),
        whois_port: u16::try_from(settings.number(&WHOIS_PORT)).unwrap_or(43),
        dns_server: settings.text(&DNS_SERVER),
        timeout: Duration::from_millis(settings.number(&TIMEOUT).unsigned_abs().into()),
    }
}

impl Provider for TeamCymru {
    fn name(&self) -> &'static str {
        "cymru"
    }

    fn title(&self) -> &'static str {
        "Team Cymru"
    }

    fn settings(&self) -> &'static [&'static Setting] {
        SETTINGS
    }

    fn limits(&self, settings: &Settings) -> Limits {
        let parallel = settings.number(&MAX_CONNECTIONS).unsigned_abs();
        Limits {
            batch: settings.number(&BATCH_SIZE).unsigned_abs() as usize,
            parallel,
            rate: Rate::per_minute(settings.number(&RATE).unsigned_abs(), parallel),
            daily_quota: 0,
            longest: self::settings(settings).longest_exchange(),
        }
    }

    fn lifetimes(&self, settings: &Settings) -> Lifetimes {
        Lifetimes { value: settings.number(&TTL), absent: settings.number(&ABSENT_TTL) }
    }

    fn lookup_key(&self, address: Address) -> Prefix {
        Prefix::block_of(address)
    }

    fn shares_answers(&self) -> bool {
        true
    }

    fn purpose(&self) -> Purpose {
        Purpose::Network
    }

    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> providers::Reply {
        RouteRequest { settings: self::settings(settings), addresses: addresses.to_vec() }.run(cancel).into()
    }

    fn knows_networks(&self) -> bool {
        true
    }

    fn looks_up_networks(&self, settings: &Settings) -> bool {
        settings.number(&NETWORKS) != 0
    }

    fn fetch_networks(&self, asns: &[u32], settings: &Settings, cancel: &Cancel) -> providers::Reply {
        NetworkRequest { settings: self::settings(settings), asns: asns.to_vec() }.run(cancel).into()
    }
}

impl From<NetworkReply> for providers::Reply {
    fn from(mut reply: NetworkReply) -> Self {
        let of = |answer| match answer {
            NetworkAnswer::Network(network) => providers::Answer::Found(network_finding(&network)),
            NetworkAnswer::Absent => providers::Answer::Absent(None),
            NetworkAnswer::Refused(words) => providers::Answer::Refused(words),
        };
        let answers = std::mem::take(&mut reply.answers);
        let networks = answers.into_iter().map(|(asn, answer)| (asn, of(answer))).collect();
        Self { networks, ..course(reply) }
    }
}

/// Converts all parts of a reply except its answers.
fn course<K, A>(reply: CymruReply<K, A>) -> providers::Reply {
    providers::Reply {
        // If the provider sent no response, or if the exchange was cancelled, the failure does not count against any
        // lookup.
        blames_lookup: reply.spoke && reply.failure != Some(Failure::Cancelled),
        failure: reply.failure,
        anomalies: reply.anomalies,
        connected: reply.connected,
        ..providers::Reply::default()
    }
}

impl From<RouteReply> for providers::Reply {
    fn from(mut reply: RouteReply) -> Self {
        let of = |answer| match answer {
            RouteAnswer::Route(route) => providers::Answer::Found(finding(&route)),
            RouteAnswer::Absent => providers::Answer::Absent(None),
            RouteAnswer::Refused(words) => providers::Answer::Refused(words),
        };
        let answers = std::mem::take(&mut reply.answers);
        let answers = answers.into_iter().map(|(address, answer)| (address, of(answer))).collect();
        Self { answers, ..course(reply) }
    }
}

/// Uses the keys that the Python system wrote.
fn finding(route: &Route) -> Finding {
    let mut source_data = Map::new();
    source_data.insert("asn".into(), route.asn.into());
    let known = [
        ("asn_org", route.name.clone().map(Value::from)),
        ("country", route.country.map(|country| letters(country).into())),
        ("registry", route.registry.map(|registry| spelling(registry).into())),
        ("prefix", route.prefix.map(|prefix| prefix.to_string().into())),
        ("allocation_date", route.allocated.clone().map(Value::from)),
        ("origins", (!route.origins.is_empty()).then(|| route.origins.clone().into())),
    ];
    put(&mut source_data, known);
    Finding {
        source_data,
        network: Some(NetworkInfo {
            asn: Some(route.asn),
            name: organization(route.name.as_deref()),
            country: route.network_country().map(letters),
            registry: route.registry,
            ..NetworkInfo::default()
        }),
        prefix: route.prefix,
    }
}

/// Uses the keys of answers about addresses.
fn network_finding(network: &Network) -> Finding {
    let mut source_data = Map::new();
    let known = [
        ("asn_org", network.name.clone().map(Value::from)),
        ("country", network.country.map(|country| letters(country).into())),
        ("registry", network.registry.map(|registry| spelling(registry).into())),
        ("allocation_date", network.allocated.clone().map(Value::from)),
    ];
    put(&mut source_data, known);
    Finding {
        source_data,
        network: Some(NetworkInfo {
            asn: None,
            name: organization(network.name.as_deref()),
            country: network.country.map(letters),
            registry: network.registry,
            as_name: network.name.clone(),
            allocated: network.allocated.clone(),
        }),
        prefix: None,
    }
}

fn put<const N: usize>(source_data: &mut Map<String, Value>, values: [(&str, Option<Value>); N]) {
    source_data.extend(values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
}

/// Returns a network's name without the country at its end.
fn organization(name: Option<&str>) -> Option<String> {
    name.and_then(without_country).map(str::to_owned)
}

fn letters(country: [u8; 2]) -> String {
    country.iter().map(|letter| char::from(*letter)).collect()
}

/// Spells registries like Team Cymru. The Python system stored this spelling.
fn spelling(registry: Registry) -> &'static str {
    match registry {
        Registry::Arin => "arin",
        Registry::Ripe => "ripencc",
        Registry::Apnic => "apnic",
        Registry::Lacnic => "lacnic",
        Registry::Afrinic => "afrinic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn address(text: &str) -> Address {
        Address::new(text.parse().unwrap())
    }

    fn reply(answers: &[(&str, RouteAnswer)]) -> providers::Reply {
        let mut reply = RouteReply::new(Transport::Whois, None);
        reply.answers = answers.iter().map(|(ip, answer)| (address(ip), answer.clone())).collect();
        reply.into()
    }

    #[test]
    fn answers_keep_the_keys_that_are_in_use() {
        let route = Route {
            asn: 24940,
            prefix: Prefix::parse("78.46.0.0/15"),
            country: Some(*b"DE"),
            registry: Some(Registry::Ripe),
            allocated: Some("2007-03-13".into()),
            name: Some("HETZNER-AS, FI".into()),
            origins: vec![64500],
        };
        let bare = Route {
            prefix: None,
            country: None,
            registry: None,
            allocated: None,
            name: None,
            origins: Vec::new(),
            ..route.clone()
        };
        let answers = [
            ("78.46.1.1", RouteAnswer::Route(route)),
            ("78.46.1.2", RouteAnswer::Route(bare)),
            ("192.0.2.1", RouteAnswer::Absent),
            ("192.0.2.2", RouteAnswer::Refused("no".into())),
        ];
        let mut found = reply(&answers).answers;
        let mut take = |ip: &str| found.remove(&address(ip));
        let Some(providers::Answer::Found(whole)) = take("78.46.1.1") else { panic!("a route") };
        let expected = json!({
            "asn": 24940, "asn_org": "HETZNER-AS, FI", "country": "DE", "registry": "ripencc",
            "prefix": "78.46.0.0/15", "allocation_date": "2007-03-13", "origins": [64500]
        });
        assert_eq!(Value::Object(whole.source_data), expected);
        let network = whole.network.unwrap();
        assert_eq!((network.asn, network.country.as_deref()), (Some(24940), Some("FI")));
        assert_eq!((network.name.as_deref(), network.as_name), (Some("HETZNER-AS"), None));
        assert_eq!(whole.prefix, Prefix::parse("78.46.0.0/15"));

        let Some(providers::Answer::Found(bare)) = take("78.46.1.2") else { panic!("a route") };
        assert_eq!(Value::Object(bare.source_data), json!({ "asn": 24940 }));
        assert_eq!(take("192.0.2.1"), Some(providers::Answer::Absent(None)));
        assert_eq!(take("192.0.2.2"), Some(providers::Answer::Refused("no".into())));
    }

    #[test]
    fn answer_about_a_network_keeps_its_name_as_received() {
        let network = Network {
            country: Some(*b"DE"),
            registry: Some(Registry::Ripe),
            allocated: Some("2002-06-03".into()),
            name: Some("HETZNER-AS, DE".into()),
        };
        let mut reply = NetworkReply::new(Transport::Whois, None);
        reply.answers.insert(24940, NetworkAnswer::Network(network));
        reply.answers.insert(1, NetworkAnswer::Absent);
        let mut found = providers::Reply::from(reply).networks;
        let Some(providers::Answer::Found(finding)) = found.remove(&24940) else { panic!("a network") };
        assert_eq!(
            Value::Object(finding.source_data),
            json!({ "asn_org": "HETZNER-AS, DE", "country": "DE", "registry": "ripencc", "allocation_date": "2002-06-03" })
        );
        let expected = NetworkInfo {
            asn: None,
            name: Some("HETZNER-AS".into()),
            country: Some("DE".into()),
            registry: Some(Registry::Ripe),
            as_name: Some("HETZNER-AS, DE".into()),
            allocated: Some("2002-06-03".into()),
        };
        assert_eq!(finding.network, Some(expected));
        assert_eq!(found.remove(&1), Some(providers::Answer::Absent(None)));
    }

    #[test]
    fn lookups_are_blamed_when_the_provider_spoke() {
        for (spoke, failure, blamed) in [
            (false, Some(Failure::Silent), false),
            (true, Some(Failure::Cut), true),
            (true, Some(Failure::Cancelled), false),
        ] {
            let reply = RouteReply { spoke, ..RouteReply::new(Transport::Whois, failure) };
            assert_eq!(providers::Reply::from(reply).blames_lookup, blamed);
        }
    }

    #[test]
    fn one_lookup_serves_a_block() {
        let block = TeamCymru.lookup_key(address("78.46.1.77"));
        assert_eq!(block, Prefix::parse("78.46.1.0/24").unwrap());
        assert!(TeamCymru.shares_answers());
        assert_eq!(
            crate::providers::greynoise::GreyNoise.lookup_key(address("78.46.1.77")).to_string(),
            "78.46.1.77/32"
        );
    }
}
