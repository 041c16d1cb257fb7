//! The answers of GreyNoise, DShield and SPUR about one address.
//!
//! ```text
//! GET /v3/community/8.8.8.8      GreyNoise Community
//!     200  {"ip":"8.8.8.8","noise":false,"riot":true,"classification":"benign","name":"Google Public DNS","link":…,
//!           "last_seen":"2025-05-07","message":"Success"}
//!     404  {"ip":"9.9.9.1","noise":false,"riot":false,"message":"IP not observed scanning the internet or …"}
//!     400  {"message":"Request is not a valid routable IPv4 address"}
//! GET /v3/ip/8.8.8.8             GreyNoise with a paid plan: the same data in two objects
//! GET /api/ip/8.8.8.8?json       DShield; an unknown value is null, also of an address that it has never seen
//!     200  {"ip":{"number":"8.8.8.8","count":null,"attacks":null,…,"as":15169,"asname":"GOOGLE","ascountry":"US",…}}
//!     200  {"error":"bad IP address"}
//! GET /v2/context/8.8.8.8        SPUR; every field but `ip` may be missing
//!     200  {"ip":"8.8.8.8","as":{…},"infrastructure":"DATACENTER","client":{"types":["MOBILE"],…},"tunnels":[…]}
//!     400  {"message":"…"} for an address that is not public
//! ```

use std::net::IpAddr;

use crate::hosts::{Host, Hosts, Tunnel};
use crate::json::{Json, list, object};
use crate::prefix::is_public;

/// The service that this stand-in imitates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// The Community API: `/v3/community/<ip>`.
    GreyNoise,
    /// The API of a paid plan: `/v3/ip/<ip>`.
    GreyNoiseFull,
    /// `/api/ip/<ip>?json`.
    Dshield,
    /// The context API: `/v2/context/<ip>`.
    Spur,
}

/// The date of the data.
const LAST_SEEN: &str = "2025-05-07";

impl Service {
    /// Returns the part of the path before the address, with the slash.
    pub(super) fn path(self) -> &'static str {
        match self {
            Service::GreyNoise => "/v3/community/",
            Service::GreyNoiseFull => "/v3/ip/",
            Service::Dshield => "/api/ip/",
            Service::Spur => "/v2/context/",
        }
    }

    /// Returns the part of the path in which the service expects the address. `None` if the path does not belong to the
    /// service.
    pub(super) fn question(self, path: &str) -> Option<&str> {
        let question = path.strip_prefix(self.path())?;
        Some(question.split_once('?').map_or(question, |(question, _)| question))
    }

    /// Returns the right answer for this path. The answer contains the address that `named` returns for the requested
    /// address.
    pub(super) fn answer(self, hosts: &Hosts, path: &str, named: impl Fn(IpAddr) -> IpAddr) -> (u16, Json) {
        let Some(question) = self.question(path) else {
            return (404, self.message(404));
        };
        let Ok(address) = question.parse::<IpAddr>() else {
            return match self {
                Service::Dshield => (200, object([("error", "bad IP address".into())])),
                _ => (400, self.message(400)),
            };
        };
        let refused = match self {
            Service::GreyNoise | Service::GreyNoiseFull => !address.is_ipv4() || !is_public(address),
            Service::Dshield => false,
            Service::Spur => !is_public(address),
        };
        if refused {
            return (400, self.message(400));
        }
        let host = hosts.of(address);
        let ip = named(address).to_string();
        match self {
            Service::GreyNoise => community(&ip, &host),
            Service::GreyNoiseFull if path.contains("quick=true") => quick(&ip, &host),
            Service::GreyNoiseFull => full(&ip, &host),
            Service::Dshield => (200, dshield(&ip, &host)),
            Service::Spur => (200, spur(&ip, &host)),
        }
    }

    /// Returns the message that the service sends with an error status.
    pub(super) fn message(self, status: u16) -> Json {
        let greynoise = matches!(self, Service::GreyNoise | Service::GreyNoiseFull);
        match status {
            400 if greynoise => message("Request is not a valid routable IPv4 address"),
            400 => message("not a public IP address"),
            401 if greynoise => message("Invalid API key"),
            401 => message("invalid token"),
            403 => message("forbidden"),
            404 => message("no such page"),
            405 => message("method not allowed"),
            429 if greynoise => object([
                ("plan", "unauthenticated".into()),
                ("rate-limit", "100-lookups/day".into()),
                ("plan_url", "https://www.greynoise.io/pricing".into()),
                (
                    "message",
                    "You have hit your daily rate-limit of 100 requests per day. Please create a free account or upgrade your plan.".into(),
                ),
            ]),
            429 if self == Service::Spur => message("query balance exhausted"),
            429 => message("too many requests"),
            500.. => message("internal error"),
            _ => message("unexpected"),
        }
    }
}

fn message(text: &str) -> Json {
    object([("message", text.into())])
}

/// Returns true if GreyNoise knows the address as a scanner, as a common business service, or as both.
fn is_known(host: &Host) -> bool {
    host.classification.is_some() || host.riot
}

/// Returns the classification of a scanner. A business service that does not scan is benign.
fn classification(host: &Host) -> &str {
    host.classification.as_deref().unwrap_or("benign")
}

fn name(host: &Host) -> &str {
    host.name.as_deref().unwrap_or("unknown")
}

fn community(ip: &str, host: &Host) -> (u16, Json) {
    if !is_known(host) {
        let absent = object([
            ("ip", ip.into()),
            ("noise", false.into()),
            ("riot", false.into()),
            ("message", "IP not observed scanning the internet or contained in RIOT data set.".into()),
        ]);
        return (404, absent);
    }
    let found = object([
        ("ip", ip.into()),
        ("noise", host.classification.is_some().into()),
        ("riot", host.riot.into()),
        ("classification", classification(host).into()),
        ("name", name(host).into()),
        ("link", format!("https://viz.greynoise.io/ip/{ip}").into()),
        ("last_seen", LAST_SEEN.into()),
        ("message", "Success".into()),
    ]);
    (200, found)
}

fn quick(ip: &str, host: &Host) -> (u16, Json) {
    let status = if is_known(host) { 200 } else { 404 };
    let body = object([
        ("ip", ip.into()),
        (
            "business_service_intelligence",
            object([("found", host.riot.into()), ("trust_level", if host.riot { "1" } else { "" }.into())]),
        ),
        (
            "internet_scanner_intelligence",
            object([
                ("found", host.classification.is_some().into()),
                ("classification", host.classification.as_deref().unwrap_or("").into()),
            ]),
        ),
    ]);
    (status, body)
}

fn full(ip: &str, host: &Host) -> (u16, Json) {
    let status = if is_known(host) { 200 } else { 404 };
    let riot = |text: &str| Json::from(if host.riot { text } else { "" });
    let business = object([
        ("found", host.riot.into()),
        ("category", riot("public_dns")),
        ("name", riot(name(host))),
        ("description", riot("A service that many use.")),
        ("explanation", riot("Seen in the traffic of most networks.")),
        ("last_updated", riot("2025-05-07T12:00:00Z")),
        ("reference", riot("https://example.com/addresses")),
        ("trust_level", riot("1")),
    ]);
    let scans = host.classification.is_some();
    let seen = |text: &str| Json::from(if scans { text } else { "" });
    let has = |kind: &str| host.tunnels.iter().any(|tunnel| tunnel.kind == kind);
    let vpn_service =
        host.tunnels.iter().find(|tunnel| tunnel.kind == "VPN").and_then(|tunnel| tunnel.operator.as_deref());
    let tag = object([
        ("id", "5f0c1c2e-8d5b-4b57-9f4a-0d6a4a3c9b11".into()),
        ("slug", "ssh-bruteforcer".into()),
        ("name", "SSH Bruteforcer".into()),
        ("description", "Tries passwords on SSH servers.".into()),
        ("category", "activity".into()),
        ("intention", classification(host).into()),
        ("references", Json::List(Vec::new())),
        ("cves", Json::List(Vec::new())),
        ("recommend_block", (classification(host) == "malicious").into()),
        ("created_at", "2020-04-07".into()),
        ("updated_at", LAST_SEEN.into()),
    ]);
    let metadata = object([
        ("asn", host.asn.map_or(String::new(), |asn| format!("AS{asn}")).into()),
        ("source_country", "".into()),
        ("source_country_code", host.country.as_deref().unwrap_or("").into()),
        ("source_city", "".into()),
        ("region", "".into()),
        ("organization", host.as_name.as_deref().unwrap_or("").into()),
        (
            "category",
            if host.infrastructure.as_deref() == Some("DATACENTER") { "hosting" } else { "isp" }.into(),
        ),
        ("rdns", "".into()),
        ("rdns_parent", "".into()),
        ("rdns_validated", false.into()),
        ("domain", "".into()),
        ("os", seen("Linux 3.11+")),
        ("mobile", (host.infrastructure.as_deref() == Some("MOBILE")).into()),
        ("carrier", "".into()),
        ("datacenter", "".into()),
        ("single_destination", false.into()),
        ("sensor_count", 41_u64.into()),
        ("sensor_hits", 1_250_u64.into()),
        ("destination_countries", list(["Germany", "Japan"])),
        ("destination_country_codes", list(["DE", "JP"])),
        ("destination_cities", list(["Frankfurt am Main", "Tokyo"])),
        ("destination_asns", list(["AS24940", "AS2516"])),
        ("latitude", 51.2993.into()),
        ("longitude", 9.491.into()),
    ]);
    let raw_data = object([
        ("scan", list([object([("port", 22_u64.into()), ("protocol", "tcp".into())])])),
        ("ja3", Json::List(Vec::new())),
        (
            "hassh",
            list([object([
                ("fingerprint", "92674389fa1e47a27ddd8d9b63ecd42b".into()),
                ("port", 22_u64.into()),
            ])]),
        ),
        ("http", object([("path", Json::List(Vec::new())), ("useragent", Json::List(Vec::new()))])),
        ("tls", object([("cipher", Json::List(Vec::new()))])),
        ("ssh", object([("key", Json::List(Vec::new()))])),
        ("tcp", object([("ja4", Json::List(Vec::new()))])),
    ]);
    let mut scanner = vec![("found".to_owned(), scans.into()), ("seen".to_owned(), scans.into())];
    // GreyNoise says nothing more about an address that it has not seen.
    if scans {
        let Json::Object(rest) = object([
            ("classification", classification(host).into()),
            ("first_seen", "2024-11-02".into()),
            ("last_seen", LAST_SEEN.into()),
            ("last_seen_timestamp", "2025-05-07T23:41:10Z".into()),
            ("actor", name(host).into()),
            ("spoofable", false.into()),
            ("bot", false.into()),
            ("vpn", has("VPN").into()),
            ("vpn_service", vpn_service.unwrap_or("").into()),
            ("tor", has("TOR").into()),
            ("cves", Json::List(Vec::new())),
            ("tags", list([tag])),
            ("metadata", metadata),
            ("raw_data", raw_data),
        ]) else {
            unreachable!("`object` makes an object")
        };
        scanner.extend(rest);
    }
    let body = object([
        ("ip", ip.into()),
        ("business_service_intelligence", business),
        ("internet_scanner_intelligence", Json::Object(scanner)),
        ("request_metadata", object([("restricted_fields", Json::List(Vec::new()))])),
    ]);
    (status, body)
}

fn dshield(ip: &str, host: &Host) -> Json {
    let number =
        |value: u64, as_text: bool| if as_text { Json::from(value.to_string()) } else { Json::from(value) };
    let reports = host.reports;
    let reported = |text: &str| reports.map(|_| Json::from(text));
    let feeds = object([(
        "blocklistde22",
        object([("lastseen", LAST_SEEN.into()), ("firstseen", "2025-04-19".into())]),
    )]);
    let ip = object([
        ("number", ip.into()),
        ("count", reports.map(|reports| number(reports.count, reports.as_text)).into()),
        ("attacks", reports.map(|reports| number(reports.attacks, reports.as_text)).into()),
        ("maxdate", reported(LAST_SEEN).into()),
        ("mindate", reported("2025-03-02").into()),
        ("updated", reported("2025-05-08 02:11:37").into()),
        ("comment", Json::Null),
        ("maxrisk", Json::Null),
        ("asabusecontact", host.asn.map(|_| "abuse@example.com").into()),
        ("as", host.asn.into()),
        ("asname", host.as_name.as_deref().into()),
        ("ascountry", host.country.as_deref().into()),
        ("assize", host.asn.map(|_| 65_536_u64).into()),
        ("network", host.network.as_deref().into()),
        ("threatfeeds", reports.map(|_| feeds).into()),
    ]);
    object([("ip", ip)])
}

fn spur(ip: &str, host: &Host) -> Json {
    let mut fields = vec![("ip".to_owned(), Json::from(ip))];
    let mut field = |name: &str, value: Json| fields.push((name.to_owned(), value));
    if let Some(asn) = host.asn {
        let name = host.as_name.as_deref().unwrap_or("");
        field("as", object([("number", asn.into()), ("organization", name.into())]));
        field("organization", name.into());
    }
    if let Some(infrastructure) = &host.infrastructure {
        field("infrastructure", infrastructure.as_str().into());
    }
    let country = host.country.as_deref().filter(|country| !country.is_empty());
    let (proxies, tunnels): (Vec<_>, Vec<_>) = host.tunnels.iter().partition(|tunnel| tunnel.kind == "PROXY");
    if !host.devices.is_empty() {
        let concentration = object([
            ("city", "Weldon Spring".into()),
            ("state", "Missouri".into()),
            ("country", country.unwrap_or("US").into()),
            ("geohash", "9yz".into()),
            ("density", 0.202.into()),
            ("skew", 45_u64.into()),
        ]);
        let client = object([
            ("types", list(host.devices.iter().map(String::as_str))),
            ("behaviors", list(["FILE_SHARING"])),
            ("proxies", list(proxies.iter().filter_map(|tunnel| tunnel.operator.as_deref()))),
            ("count", 14_u64.into()),
            ("countries", 1_u64.into()),
            ("spread", 4_724_209_u64.into()),
            ("concentration", concentration),
        ]);
        field("client", client);
    }
    if let Some(country) = country {
        let location = object([
            ("city", "".into()),
            ("state", "".into()),
            ("country", country.into()),
            ("latitude", 51.2993.into()),
            ("longitude", 9.491.into()),
        ]);
        field("location", location);
    }
    if !host.tunnels.is_empty() {
        let mut risks = vec!["TUNNEL"];
        if !proxies.is_empty() {
            risks.push("CALLBACK_PROXY");
        }
        field("risks", list(risks));
        if tunnels.iter().any(|tunnel| tunnel.kind == "VPN") {
            field("services", list(["OPENVPN", "IPSEC"]));
        }
        let tunnel = |tunnel: &Tunnel| {
            let mut fields = vec![("type".to_owned(), Json::from(tunnel.kind.as_str()))];
            if let Some(operator) = &tunnel.operator {
                fields.push(("operator".to_owned(), operator.as_str().into()));
            }
            fields.push(("anonymous".to_owned(), true.into()));
            fields.push(("entries".to_owned(), list([ip])));
            Json::Object(fields)
        };
        field("tunnels", list(host.tunnels.iter().map(tunnel)));
    }
    Json::Object(fields)
}
