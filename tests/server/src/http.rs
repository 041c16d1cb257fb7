//! A server whose workers send requests to stand-ins for GreyNoise, DShield and SPUR, and optionally for Team Cymru.
//! Contains the expected contents of the server's tables, too.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cowrie_enrich_upstreams::{Hosts, Http, HttpBehaviour, HttpFault, Routes, Service, Whois};
use serde_json::Value;

use crate::cluster::{Cluster, Options};
use crate::cymru::{self, array, member};
use crate::database::{Database, cluster_with_world, fresh_database};
use crate::installation::installation;
use crate::session::Session;
use crate::wait::wait_until;

/// Keys that occur in no other text, so that tests can search for them.
pub const GREYNOISE_KEY: &str = "gn-Zq83vXw0TtLkP5sE";
pub const SPUR_TOKEN: &str = "spur-7Yh2mNcR9uBdJx4K";
pub const CONTACT: &str = "honeypot@example.org";

/// The providers with an HTTP interface.
pub const PROVIDERS: [&str; 3] = ["greynoise", "dshield", "spur"];

pub struct Lab {
    // The first field, so that the server is dropped before the stand-ins to which it sends requests.
    pub cluster: Cluster,
    pub greynoise: Http,
    pub dshield: Http,
    pub spur: Http,
    pub whois: Whois,
}

/// The settings of a lab.
pub struct Plan {
    options: Options,
    sources: String,
    hosts: Hosts,
    greynoise: Service,
}

impl Plan {
    /// Returns options for workers that use `sources`, a synthetic internet, no rate limit, and short pauses.
    pub fn of(name: &str, sources: &str) -> Plan {
        Plan {
            options: Options::named(name).with_worker(),
            sources: sources.to_owned(),
            hosts: Hosts::synthetic(),
            greynoise: Service::GreyNoise,
        }
    }

    /// Adds a setting of the extension, which overrides the lab's setting.
    #[must_use]
    pub fn with(mut self, setting: &str) -> Plan {
        self.options = self.options.conf(&format!("cowrie_enrich.{setting}"));
        self
    }

    #[must_use]
    pub fn options(mut self, change: impl FnOnce(Options) -> Options) -> Plan {
        self.options = change(self.options);
        self
    }

    #[must_use]
    pub fn hosts(self, hosts: Hosts) -> Plan {
        Plan { hosts, ..self }
    }

    /// Uses the interface of a paid plan.
    #[must_use]
    pub fn full_greynoise(self) -> Plan {
        Plan { greynoise: Service::GreyNoiseFull, ..self }
    }

    pub fn start(self) -> Lab {
        let whois = Whois::start(Routes::synthetic());
        let start = |service| Http::start(service, self.hosts.clone());
        let (greynoise, dshield, spur) =
            (start(self.greynoise), start(Service::Dshield), start(Service::Spur));
        greynoise.require("key", GREYNOISE_KEY);
        spur.require("Token", SPUR_TOKEN);
        let mut own = vec![
            format!("cowrie_enrich.enabled_sources = '{}'", self.sources),
            format!("cowrie_enrich.dshield_contact = '{CONTACT}'"),
            "cowrie_enrich.greynoise_daily_quota = 0".to_owned(),
        ];
        for (provider, server) in [("greynoise", &greynoise), ("dshield", &dshield), ("spur", &spur)] {
            own.push(format!("cowrie_enrich.{provider}_url = '{}'", server.url()));
            own.push(format!("cowrie_enrich.{provider}_rate = 0"));
            own.push(format!("cowrie_enrich.{provider}_max_parallel = 10"));
        }
        let options = cymru::pointed_at(&whois, self.options.conf_before(&own));
        let cluster = cluster_with_world(&options);
        let lab = Lab { cluster, greynoise, dshield, spur, whois };
        lab.write_key("greynoise", GREYNOISE_KEY);
        lab.write_key("spur", SPUR_TOKEN);
        lab.reconfigure(&[
            &format!("greynoise_api_key_file = '{}'", lab.key_file("greynoise").display()),
            &format!("spur_token_file = '{}'", lab.key_file("spur").display()),
        ]);
        lab
    }
}

impl Lab {
    /// Returns a new database. Its worker starts with the first work.
    pub fn database(&self) -> Database<'_> {
        fresh_database(&self.cluster)
    }

    /// See [`cymru::Lab::reconfigure`].
    pub fn reconfigure(&self, lines: &[&str]) {
        cymru::reconfigure(&self.cluster, lines);
    }

    pub fn server(&self, provider: &str) -> &Http {
        match provider {
            "greynoise" => &self.greynoise,
            "dshield" => &self.dshield,
            "spur" => &self.spur,
            _ => panic!("{provider} is not asked by HTTP"),
        }
    }

    pub fn servers(&self) -> [(&'static str, &Http); 3] {
        PROVIDERS.map(|provider| (provider, self.server(provider)))
    }

    pub fn key_file(&self, provider: &str) -> PathBuf {
        self.cluster.files().join(format!("{provider}.key"))
    }

    /// Writes a key as an operator does: readable by the server only, and in one step.
    pub fn write_key(&self, provider: &str, content: &str) {
        let (draft, path) = (self.cluster.files().join("draft.key"), self.key_file(provider));
        fs::write(&draft, content).expect("the key can be written");
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).expect("own file");
        installation().give_to_server(&draft);
        fs::rename(&draft, &path).expect("own directory");
    }

    #[track_caller]
    pub fn assert_nothing_crashed(&self) {
        cymru::assert_nothing_crashed(&self.cluster);
    }

    /// Returns the places in which a key or the beginning of a key was found.
    pub fn where_keys_are(&self, session: &mut Session) -> Vec<String> {
        let mut places = Vec::new();
        let log = self.cluster.whole_log();
        for key in [GREYNOISE_KEY, SPUR_TOKEN].map(|key| &key[..10]) {
            places.extend(log.lines().filter(|line| line.contains(key)).map(|line| format!("log: {line}")));
            // The query must not contain the key, because pg_stat_activity shows the query.
            let backwards: String = key.chars().rev().collect();
            for source in [
                "enrich.provider_status()",
                "enrich.dead_letter",
                "enrich.enrichment_job",
                "enrich.ip_inventory",
                "enrich.enrichment_request",
                "enrich.block_answer",
                "pg_stat_activity",
            ] {
                let rows = session.rows(&format!(
                    "SELECT x::text FROM {source} x WHERE strpos(x::text, reverse('{backwards}')) > 0"
                ));
                places.extend(rows.iter().map(|row| format!("{source}: {row}")));
            }
        }
        places
    }

    /// Asserts that no key is stored, logged or shown, and that each key was sent only to its provider.
    #[track_caller]
    pub fn assert_keys_are_nowhere(&self, session: &mut Session) {
        assert_eq!(self.where_keys_are(session), [] as [String; 0]);
        for (provider, server) in self.servers() {
            for request in server.requests() {
                let own = match provider {
                    "greynoise" => ("key", GREYNOISE_KEY),
                    "spur" => ("token", SPUR_TOKEN),
                    _ => ("", ""),
                };
                assert!(
                    ![GREYNOISE_KEY, SPUR_TOKEN].iter().any(|key| request.path.contains(key)),
                    "{provider} has a key in the path: {request:?}"
                );
                for (name, value) in &request.headers {
                    let is_key = value.contains(GREYNOISE_KEY) || value.contains(SPUR_TOKEN);
                    let is_own = name.eq_ignore_ascii_case(own.0) && value == own.1;
                    assert!(!is_key || is_own, "{provider} was sent {name}: {value}");
                }
            }
        }
    }
}

/// Queues a lookup of each address at one provider, in one transaction.
pub fn request(session: &mut Session, provider: &str, addresses: &[IpAddr]) {
    session.run(&format!(
        "SELECT enrich.request_enrichment(a, '{provider}') FROM unnest({}) a",
        array(addresses)
    ));
}

/// Returns columns of a provider's status, joined by `|`.
#[track_caller]
pub fn status(session: &mut Session, provider: &str, columns: &str) -> String {
    session.one(&format!("SELECT {columns} FROM enrich.provider_status() WHERE provider = '{provider}'"))
}

/// Returns one of a provider's counters.
#[track_caller]
pub fn count(session: &mut Session, provider: &str, column: &str) -> i64 {
    session.number(&format!("SELECT {column} FROM enrich.provider_status() WHERE provider = '{provider}'"))
}

/// Waits until the status has these values.
#[track_caller]
pub fn wait_for_status(session: &mut Session, provider: &str, columns: &str, expected: &str) {
    wait_until(
        "the provider's status is as expected",
        || (status(session, provider, columns), cymru::state(session)),
        |(now, _)| now == expected,
    );
}

/// Makes the database's worker run this number of whole rounds. In each round the worker handles every provider, and
/// sends all requests that may be sent. `known` is an address that Team Cymru has answered; no request is sent for
/// it.
#[track_caller]
pub fn rounds(session: &mut Session, known: IpAddr, number: usize) {
    for _ in 0..number {
        cymru::queue(session, &[known]);
        wait_until(
            "the worker has made a round",
            || {
                session.number(
                    "SELECT (SELECT count(*) FROM enrich.enrichment_request)
                          + (SELECT count(*) FROM enrich.enrichment_job WHERE provider = 'cymru')",
                )
            },
            |left| *left == 0,
        );
    }
}

/// Returns the addresses of the requests, in the order of their arrival.
pub fn asked(server: &Http) -> Vec<IpAddr> {
    server.requests().iter().filter_map(|request| request.ip).collect()
}

/// Returns a provider's part of an address's document, without the time.
#[track_caller]
pub fn document(session: &mut Session, address: IpAddr, provider: &str) -> Value {
    let text = session.one(&format!(
        "SELECT (enrichment -> '{provider}') - 'cached_at' FROM enrich.ip_inventory WHERE ip_address = '{address}'"
    ));
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Returns all documents of a provider, without the time, by address.
pub fn documents(session: &mut Session, provider: &str) -> std::collections::BTreeMap<IpAddr, Value> {
    session
        .rows(&format!(
            "SELECT host(ip_address), (enrichment -> '{provider}') - 'cached_at' FROM enrich.ip_inventory
             WHERE enrichment ? '{provider}'"
        ))
        .iter()
        .map(|row| {
            let (address, text) = row.split_once('|').expect("two columns");
            (address.parse().expect("an address"), serde_json::from_str(text).expect("JSON"))
        })
        .collect()
}

/// Sends a request to a stand-in and returns the status and the answer. The stand-in records the request.
pub fn ask(server: &Http, address: IpAddr, suffix: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let url = server.url();
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("the stand-in listens");
    let mut request =
        format!("GET /{path}/{address}{suffix} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{request}\r\n").expect("the stand-in reads");
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the stand-in answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Returns the behaviour that holds requests until the stand-in gets another behaviour.
pub fn held() -> HttpBehaviour {
    HttpFault::Held.into()
}

/// Waits until this number of requests is held.
#[track_caller]
pub fn wait_until_held(server: &Http, number: usize) {
    wait_until("requests are held", || server.in_progress(), |now| *now >= number);
}

/// Returns one address of each of these /24s for which `is_like` is true. The addresses are in no mmdb file.
pub fn members_like(number: usize, mut is_like: impl FnMut(IpAddr) -> bool) -> Vec<IpAddr> {
    (0..).map(|block| member(block, 7)).filter(|address| is_like(*address)).take(number).collect()
}

pub use crate::cymru::wait_for_the_queue;
