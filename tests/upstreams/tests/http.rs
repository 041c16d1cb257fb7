//! Tests of the HTTP stand-ins through plain sockets: their answers and their records.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    CannedAnswer, Host, Hosts, Http, HttpBehaviour, HttpFault, HttpRequest, Reports, Service, Tunnel,
    synthetic_classification, synthetic_dshield_asn, synthetic_dshield_attacks, synthetic_dshield_country,
    synthetic_ip_type, synthetic_noise,
};
use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hosts() -> Hosts {
    let mut hosts = Hosts::empty();
    let google = Host {
        name: Some("Google Public DNS".to_owned()),
        riot: true,
        country: Some("US".to_owned()),
        asn: Some(15_169),
        as_name: Some("GOOGLE".to_owned()),
        network: Some("8.8.8.0/24".to_owned()),
        infrastructure: Some("DATACENTER".to_owned()),
        ..Host::default()
    };
    hosts.add("8.8.8.0/24", google);
    let exit = Host {
        classification: Some("malicious".to_owned()),
        country: Some("DE".to_owned()),
        asn: Some(60_729),
        reports: Some(Reports { count: 880, attacks: 95, as_text: false }),
        tunnels: vec![
            Tunnel { kind: "PROXY".to_owned(), operator: Some("SOME_PROXY".to_owned()) },
            Tunnel { kind: "TOR".to_owned(), operator: None },
        ],
        infrastructure: Some("DATACENTER".to_owned()),
        devices: vec!["DESKTOP".to_owned(), "MOBILE".to_owned()],
        ..Host::default()
    };
    hosts.add("185.220.101.0/24", exit);
    hosts
}

/// One connection of a client that trusts the length in the head.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// True if the body was as long as the head said.
    whole: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem}: {self:?}"))
    }
}

impl Client {
    fn new(http: &Http) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, http.port())).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client { stream: BufReader::new(stream), host: format!("127.0.0.1:{}", http.port()) }
    }

    fn send(&mut self, path: &str, headers: &[(&str, &str)]) {
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(read) if read > 0 => Some(line.trim_end_matches("\r\n").to_owned()),
            _ => None,
        }
    }

    fn head(&mut self) -> Option<Answer> {
        let status = self.line()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(Answer { status, headers, body: Vec::new(), whole: true });
            }
            let (name, value) = line.split_once(": ")?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Reads an answer. Returns `None` at the end of the connection, or if the bytes are not HTTP.
    fn receive(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.whole = self.chunks(&mut answer.body).is_some();
        } else if let Some(length) = answer.header("content-length") {
            let length: u64 = length.parse().unwrap();
            let _ = (&mut self.stream).take(length).read_to_end(&mut answer.body);
            answer.whole = answer.body.len() as u64 == length;
        } else {
            let _ = self.stream.read_to_end(&mut answer.body);
        }
        Some(answer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let length = u64::from_str_radix(&self.line()?, 16).ok()?;
            let before = body.len() as u64;
            (&mut self.stream).take(length).read_to_end(body).ok()?;
            if body.len() as u64 != before + length || !self.line()?.is_empty() {
                return None;
            }
            if length == 0 {
                return Some(());
            }
        }
    }

    fn ask(&mut self, path: &str) -> Answer {
        self.send(path, &[]);
        self.receive().expect("an answer")
    }

    /// Reads until the connection ends.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too.
        if let Err(problem) = self.stream.read_to_end(&mut rest) {
            assert_ne!(problem.kind(), ErrorKind::WouldBlock, "the connection stays open");
        }
        rest
    }

    fn nothing_yet(&self) -> bool {
        self.stream.get_ref().set_nonblocking(true).unwrap();
        let nothing = self.stream.get_ref().peek(&mut [0]).is_err();
        self.stream.get_ref().set_nonblocking(false).unwrap();
        nothing
    }
}

fn path(service: Service, question: &str) -> String {
    match service {
        Service::GreyNoise => format!("/v3/community/{question}"),
        Service::GreyNoiseFull => format!("/v3/ip/{question}"),
        Service::Dshield => format!("/api/ip/{question}?json"),
        Service::Spur => format!("/v2/context/{question}"),
    }
}

fn ask(service: Service, question: &str) -> Answer {
    let http = Http::start(service, hosts());
    Client::new(&http).ask(&path(service, question))
}

/// Asks GreyNoise for 185.220.101.7 while it behaves like this.
fn ask_of(behaviour: impl Into<HttpBehaviour>) -> (Http, Client, Option<Answer>) {
    let http = Http::start(Service::GreyNoise, hosts());
    http.behave(behaviour);
    let mut client = Client::new(&http);
    client.send("/v3/community/185.220.101.7", &[]);
    let answer = client.receive();
    (http, client, answer)
}

fn wait_until<T: Debug>(mut fetch: impl FnMut() -> T, predicate: impl Fn(&T) -> bool) -> T {
    let started = Instant::now();
    loop {
        let value = fetch();
        if predicate(&value) {
            return value;
        }
        assert!(started.elapsed() < TIMEOUT, "last value: {value:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

#[test]
fn greynoise_community_answers_as_documented() {
    let found = ask(Service::GreyNoise, "185.220.101.7");
    assert_eq!((found.status, found.header("content-type")), (200, Some("application/json")));
    let expected = json!({
        "ip": "185.220.101.7", "noise": true, "riot": false, "classification": "malicious", "name": "unknown",
        "link": "https://viz.greynoise.io/ip/185.220.101.7", "last_seen": "2025-05-07", "message": "Success",
    });
    assert_eq!(found.json(), expected);
    let service = ask(Service::GreyNoise, "8.8.8.8").json();
    assert_eq!((&service["noise"], &service["riot"]), (&json!(false), &json!(true)));
    assert_eq!(
        (&service["classification"], &service["name"]),
        (&json!("benign"), &json!("Google Public DNS"))
    );
    let absent = ask(Service::GreyNoise, "9.9.9.9");
    let expected = json!({
        "ip": "9.9.9.9", "noise": false, "riot": false,
        "message": "IP not observed scanning the internet or contained in RIOT data set.",
    });
    assert_eq!((absent.status, absent.json()), (404, expected));
    for refused in ["2001:db8::1", "2a00::1", "10.0.0.1", "300.1.1.1", "x"] {
        let answer = ask(Service::GreyNoise, refused);
        let expected = json!({"message": "Request is not a valid routable IPv4 address"});
        assert_eq!((answer.status, answer.json()), (400, expected), "{refused}");
    }
}

#[test]
fn greynoise_for_a_plan_says_the_same_in_two_objects() {
    let found = ask(Service::GreyNoiseFull, "185.220.101.7");
    let body = found.json();
    assert_eq!((found.status, &body["ip"]), (200, &json!("185.220.101.7")));
    let scanner = &body["internet_scanner_intelligence"];
    assert_eq!((&scanner["found"], &scanner["classification"]), (&json!(true), &json!("malicious")));
    assert_eq!((&scanner["tor"], &scanner["vpn"]), (&json!(true), &json!(false)));
    assert_eq!(scanner["metadata"]["asn"], "AS60729");
    assert_eq!(body["business_service_intelligence"]["found"], false);
    let body = ask(Service::GreyNoiseFull, "8.8.8.8").json();
    assert_eq!(body["internet_scanner_intelligence"], json!({"found": false, "seen": false}));
    let business = &body["business_service_intelligence"];
    assert_eq!((&business["found"], &business["name"]), (&json!(true), &json!("Google Public DNS")));
    assert_eq!(business["trust_level"], "1");
    let absent = ask(Service::GreyNoiseFull, "9.9.9.9");
    assert_eq!(absent.status, 404);
    assert_eq!(absent.json()["internet_scanner_intelligence"]["found"], false);
    assert_eq!(absent.json()["business_service_intelligence"]["found"], false);
    let quick = ask(Service::GreyNoiseFull, "185.220.101.7?quick=true");
    let expected = json!({
        "ip": "185.220.101.7",
        "business_service_intelligence": {"found": false, "trust_level": ""},
        "internet_scanner_intelligence": {"found": true, "classification": "malicious"},
    });
    assert_eq!((quick.status, quick.json()), (200, expected));
    assert_eq!(ask(Service::GreyNoiseFull, "2a00::1").status, 400);
}

#[test]
fn dshield_has_all_keys_and_null_for_what_it_does_not_know() {
    let known = ask(Service::Dshield, "185.220.101.7").json();
    let of = |key: &str| known["ip"][key].clone();
    assert_eq!((of("number"), of("count"), of("attacks")), (json!("185.220.101.7"), json!(880), json!(95)));
    assert_eq!((of("as"), of("ascountry"), of("asname")), (json!(60_729), json!("DE"), Value::Null));
    assert!(of("threatfeeds")["blocklistde22"]["firstseen"].is_string());
    let network_only = ask(Service::Dshield, "8.8.8.8").json();
    assert_eq!((&network_only["ip"]["count"], &network_only["ip"]["as"]), (&Value::Null, &json!(15_169)));
    for unseen in ["9.9.9.9", "10.0.0.1", "2a00::1"] {
        let answer = ask(Service::Dshield, unseen);
        let mut body = answer.json();
        let fields = body["ip"].as_object_mut().unwrap();
        assert_eq!((answer.status, fields.remove("number")), (200, Some(json!(unseen))));
        assert_eq!(fields.len(), known["ip"].as_object().unwrap().len() - 1);
        assert!(fields.values().all(Value::is_null), "{fields:?}");
    }
    assert_eq!(ask(Service::Dshield, "nonsense").json(), json!({"error": "bad IP address"}));
    let http = Http::start(Service::Dshield, hosts());
    let xml = Client::new(&http).ask("/api/ip/8.8.8.8");
    assert_eq!((xml.status, xml.header("content-type")), (200, Some("text/xml")));
}

#[test]
fn spur_tells_tunnels_from_devices_and_counts_the_balance_down() {
    let http = Http::start(Service::Spur, hosts());
    let mut client = Client::new(&http);
    let exit = client.ask("/v2/context/185.220.101.7");
    let body = exit.json();
    assert_eq!((&body["ip"], &body["infrastructure"]), (&json!("185.220.101.7"), &json!("DATACENTER")));
    assert_eq!(body["client"]["types"], json!(["DESKTOP", "MOBILE"]));
    assert_eq!(body["client"]["proxies"], json!(["SOME_PROXY"]));
    assert_eq!(body["risks"], json!(["TUNNEL", "CALLBACK_PROXY"]));
    let tunnels = json!([
        {"type": "PROXY", "operator": "SOME_PROXY", "anonymous": true, "entries": ["185.220.101.7"]},
        {"type": "TOR", "anonymous": true, "entries": ["185.220.101.7"]},
    ]);
    assert_eq!(body["tunnels"], tunnels);
    assert_eq!(body["as"]["number"], 60_729);
    let unknown = client.ask("/v2/context/2a00::1");
    assert_eq!((unknown.status, unknown.json()), (200, json!({"ip": "2a00::1"})));
    let refused = client.ask("/v2/context/10.0.0.1");
    assert_eq!(refused.status, 400);
    let balance = [&exit, &unknown, &refused].map(|answer| answer.header("x-balance-remaining").unwrap());
    assert_eq!(balance, ["99999", "99998", "99997"]);
    assert_eq!(exit.header("x-result-dt"), Some("20250508"));
}

#[test]
fn synthetic_answers_are_what_the_functions_say() {
    let greynoise = Http::start(Service::GreyNoise, Hosts::synthetic());
    let dshield = Http::start(Service::Dshield, Hosts::synthetic());
    let spur = Http::start(Service::Spur, Hosts::synthetic());
    let (mut noise, mut shield, mut context) =
        (Client::new(&greynoise), Client::new(&dshield), Client::new(&spur));
    for n in 0..200 {
        let address = IpAddr::from([11, 1, n, 7]);
        let answer = noise.ask(&format!("/v3/community/{address}"));
        let said = (answer.status == 200).then(|| answer.json()["noise"] == true);
        assert_eq!(said, synthetic_noise(address), "{address}");
        assert_eq!(answer.json()["classification"].as_str(), synthetic_classification(address), "{address}");

        let body = shield.ask(&format!("/api/ip/{address}?json")).json();
        let country = body["ip"]["ascountry"].as_str().filter(|country| !country.is_empty());
        assert_eq!(country, synthetic_dshield_country(address), "{address}");
        assert_eq!(body["ip"]["as"].as_u64(), synthetic_dshield_asn(address), "{address}");
        let attacks = &body["ip"]["attacks"];
        let attacks = attacks.as_str().map_or(attacks.as_u64(), |text| text.parse().ok());
        assert_eq!(attacks, synthetic_dshield_attacks(address), "{address}");

        let body = context.ask(&format!("/v2/context/{address}")).json();
        let has = |kind: &str| {
            let tunnels = body["tunnels"].as_array();
            tunnels.is_some_and(|tunnels| tunnels.iter().any(|tunnel| tunnel["type"] == kind))
        };
        let tunnel = ["VPN", "TOR", "PROXY"].into_iter().find(|kind| has(kind));
        let leading = tunnel.or(body["infrastructure"].as_str());
        assert_eq!(leading, synthetic_ip_type(address), "{address}");
    }
}

#[test]
fn the_url_is_what_stands_before_the_address() {
    for service in [Service::GreyNoise, Service::GreyNoiseFull, Service::Dshield, Service::Spur] {
        let http = Http::start(service, Hosts::empty());
        let expected = path(service, "");
        let expected = expected.trim_end_matches("?json").trim_end_matches('/');
        assert_eq!(http.url(), format!("http://127.0.0.1:{}{expected}", http.port()));
        let other = Client::new(&http).ask("/nowhere/8.8.8.8?json");
        assert_eq!((other.status, other.json()), (404, json!({"message": "no such page"})));
        assert_eq!(http.requests()[0].ip, None);
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let http = Http::start(Service::GreyNoise, hosts());
    let mut client = Client::new(&http);
    for _ in 0..3 {
        assert_eq!(client.ask("/v3/community/8.8.8.8").status, 200);
    }
    // Sends two requests in two packets. The head of the first request is split, and the second packet contains the
    // whole second request.
    client.stream.get_mut().write_all(b"GET /v3/community/8.8.8.8 HTTP/1.1\r\nHo").unwrap();
    client.stream.get_mut().write_all(b"st: x\r\n\r\nGET /v3/community/9.9.9.9 HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!([client.receive().unwrap().status, client.receive().unwrap().status], [200, 404]);
    Client::new(&http).ask("/v3/community/8.8.8.8");
    let connections: Vec<usize> = http.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0, 0, 0, 1]);
}

#[test]
fn whoever_wants_the_connection_closed_sees_it_closed() {
    let (_http, mut client, answer) = ask_of(HttpBehaviour::normal().closing());
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("connection"), answer.whole), (200, Some("close"), true));
    assert_eq!(client.rest(), b"");
    let http = Http::start(Service::GreyNoise, hosts());
    let mut client = Client::new(&http);
    client.send("/v3/community/8.8.8.8", &[("Connection", "Close")]);
    assert_eq!(client.receive().unwrap().header("connection"), Some("close"));
    assert_eq!(client.rest(), b"");
    // A request that is not HTTP gets no answer. The body of a request is skipped.
    let mut client = Client::new(&http);
    client.stream.get_mut().write_all(b"begin\r\n\r\n").unwrap();
    assert_eq!(client.rest(), b"");
    let mut client = Client::new(&http);
    client
        .stream
        .get_mut()
        .write_all(b"POST /v3/community/8.8.8.8 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        .unwrap();
    assert_eq!(client.receive().unwrap().status, 405);
    assert_eq!(client.ask("/v3/community/8.8.8.8").status, 200);
}

#[test]
fn the_record_says_what_was_asked_and_when() {
    let http = Http::start(Service::Spur, hosts());
    let before = Instant::now();
    let mut client = Client::new(&http);
    client.send("/v2/context/8.8.8.8?dt=20250501", &[("Token", "secret"), ("User-Agent", "cowrie")]);
    client.receive().unwrap();
    let after = Instant::now();
    client.ask("/v2/context/10.0.0.1");
    let [first, second] = &http.requests()[..] else { panic!("two requests") };
    assert_eq!((first.method.as_str(), first.path.as_str()), ("GET", "/v2/context/8.8.8.8?dt=20250501"));
    assert_eq!((first.ip, first.status, first.left), (Some(ip("8.8.8.8")), Some(200), None));
    assert_eq!((first.header("token"), first.header("user-agent")), (Some("secret"), Some("cowrie")));
    assert_eq!(first.header("key"), None);
    let ended = first.ended.unwrap();
    assert!(before <= first.at && first.at <= ended && ended <= after && after <= second.at);
    assert_eq!((second.ip, second.status), (Some(ip("10.0.0.1")), Some(400)));
    assert_eq!((http.most_at_once(), http.in_progress()), (1, 0));
    http.forget();
    assert_eq!((http.requests().len(), http.most_at_once()), (0, 0));
}

#[test]
fn the_largest_number_within_a_window_is_counted_from_any_moment() {
    let http = Http::start(Service::GreyNoise, Hosts::synthetic());
    let mut client = Client::new(&http);
    (0..6).for_each(|_| drop(client.ask("/v3/community/11.0.0.1")));
    let moments: Vec<Instant> = http.requests().iter().map(|request| request.at).collect();
    let nanosecond = Duration::from_nanos(1);
    let whole = moments[5] - moments[0];
    assert_eq!((http.most_within(whole), http.most_within(whole + nanosecond)), (5, 6));
    assert_eq!(http.most_within(nanosecond), 1);
    // Checks each span between two requests with a second way of counting.
    for span in moments.windows(3).map(|three| three[2] - three[0]) {
        let from =
            |first: &Instant| moments.iter().filter(|at| **at >= *first && **at < *first + span).count();
        assert_eq!(Some(http.most_within(span)), moments.iter().map(from).max());
    }
    assert_eq!(http.most_within(Duration::ZERO), 0);
}

#[test]
fn what_is_required_must_be_there() {
    let http = Http::start(Service::GreyNoise, hosts());
    http.require("key", "right");
    let mut client = Client::new(&http);
    for headers in [&[][..], &[("key", "wrong")], &[("other", "right")]] {
        client.send("/v3/community/8.8.8.8", headers);
        let answer = client.receive().unwrap();
        assert_eq!((answer.status, answer.json()), (401, json!({"message": "Invalid API key"})));
    }
    client.send("/v3/community/8.8.8.8", &[("KEY", "right")]);
    assert_eq!(client.receive().unwrap().status, 200);
    // If a name is given twice, only the last value is accepted. Another name is required in addition.
    http.require("Key", "new");
    http.require("also", "this");
    client.send("/v3/community/8.8.8.8", &[("key", "new")]);
    assert_eq!(client.receive().unwrap().status, 401);
    client.send("/v3/community/8.8.8.8", &[("key", "new"), ("Also", "this")]);
    assert_eq!(client.receive().unwrap().status, 200);
    // A server that is down sends this answer to requests without a key, too.
    http.behave(HttpFault::status(503));
    assert_eq!(client.ask("/v3/community/8.8.8.8").status, 503);
}

#[test]
fn statuses_have_the_message_of_their_service() {
    let refuse = |service, code, retry_after: Option<&str>| {
        let http = Http::start(service, hosts());
        http.behave(HttpFault::Status { code, retry_after: retry_after.map(str::to_owned) });
        Client::new(&http).ask(&path(service, "8.8.8.8"))
    };
    let limited = refuse(Service::GreyNoise, 429, Some("3600"));
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("3600")));
    let body = limited.json();
    assert_eq!((&body["plan"], &body["rate-limit"]), (&json!("unauthenticated"), &json!("100-lookups/day")));
    let later = "Fri, 09 May 2025 00:00:00 GMT";
    assert_eq!(refuse(Service::Dshield, 429, Some(later)).header("retry-after"), Some(later));
    let spent = refuse(Service::Spur, 429, None);
    assert_eq!(
        (spent.header("retry-after"), spent.json()),
        (None, json!({"message": "query balance exhausted"}))
    );
    for code in [400, 401, 403, 404, 418, 500, 502, 503] {
        let answer = refuse(Service::Spur, code, None);
        assert_eq!(answer.status, code);
        assert!(answer.json()["message"].is_string(), "{answer:?}");
    }
}

#[test]
fn a_held_request_waits_to_be_told() {
    let http = Http::start(Service::GreyNoise, hosts());
    http.behave(HttpFault::Held);
    let mut first = Client::new(&http);
    let mut second = Client::new(&http);
    first.send("/v3/community/8.8.8.8", &[]);
    second.send("/v3/community/185.220.101.7", &[]);
    wait_until(|| http.in_progress(), |count| *count == 2);
    assert!(first.nothing_yet() && second.nothing_yet());
    assert_eq!(http.most_at_once(), 2);
    // This ends only the hold of the request about this address. The other request stays held.
    http.behave_for(ip("8.8.8.8"), HttpFault::status(500));
    assert_eq!(first.receive().unwrap().status, 500);
    assert_eq!(http.in_progress(), 1);
    assert!(second.nothing_yet());
    // A request is counted even if it is not in the record any more.
    http.forget();
    assert_eq!((http.in_progress(), http.requests().len()), (1, 0));
    http.behave(HttpBehaviour::normal());
    assert_eq!(second.receive().unwrap().status, 200);
    assert_eq!(http.in_progress(), 0);
    // `behave` has also ended the behaviour for this one address.
    assert_eq!(first.ask("/v3/community/8.8.8.8").status, 200);
}

#[test]
fn one_address_can_be_treated_alone() {
    let http = Http::start(Service::Dshield, hosts());
    http.behave_for(ip("8.8.8.8"), HttpFault::status(500));
    http.behave_for(ip("2001:db8::1"), HttpFault::NotJson);
    let mut client = Client::new(&http);
    assert_eq!(client.ask("/api/ip/8.8.8.8?json").status, 500);
    assert_eq!(client.ask("/api/ip/8.8.8.9?json").status, 200);
    // The address is recognized in every spelling.
    let answer = client.ask("/api/ip/2001:0db8:0::0001?json");
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
    http.behave_for(ip("8.8.8.8"), HttpBehaviour::normal());
    assert_eq!(client.ask("/api/ip/8.8.8.8?json").status, 200);
}

#[test]
fn a_delay_passes_before_the_first_byte_and_connections_do_not_wait_for_each_other() {
    let http = Http::start(Service::GreyNoise, hosts());
    let delay = Duration::from_secs(1);
    http.behave(HttpBehaviour::normal().delayed(delay));
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&http)).collect();
    clients.iter_mut().for_each(|client| client.send("/v3/community/8.8.8.8", &[]));
    wait_until(|| http.in_progress(), |count| *count == 4);
    assert!(clients[0].nothing_yet());
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
    assert_eq!(http.most_at_once(), 4);
    for request in http.requests() {
        assert!(request.ended.unwrap() - request.at >= delay);
    }
}

/// Sends a request, waits until it is recorded, and leaves without reading an answer.
fn gives_up(http: &Http, until: impl Fn(&HttpRequest) -> bool) {
    http.forget();
    let mut client = Client::new(http);
    client.send("/v3/community/8.8.8.8", &[]);
    wait_until(|| http.requests(), |requests| requests.first().is_some_and(&until));
    drop(client);
    let requests = wait_until(|| http.requests(), |requests| requests[0].ended.is_some());
    assert_eq!(requests[0].left, requests[0].left.filter(|left| *left <= requests[0].ended.unwrap()));
    assert!(requests[0].left.is_some());
    wait_until(|| http.in_progress(), |count| *count == 0);
}

#[test]
fn a_client_that_gives_up_is_noticed_and_its_request_is_over() {
    let http = Http::start(Service::GreyNoise, hosts());
    for fault in [HttpFault::Silent, HttpFault::Held] {
        http.behave(fault);
        gives_up(&http, |request| request.status.is_none());
        assert_eq!(http.requests()[0].status, None);
    }
    http.behave(HttpBehaviour::normal().delayed(TIMEOUT * 100));
    gives_up(&http, |request| request.status.is_none());
    for fault in [HttpFault::Hang, HttpFault::Drip { every: TIMEOUT * 100 }] {
        http.behave(fault);
        gives_up(&http, |request| request.status == Some(200));
    }
    // The client does not read, so the server's send buffer fills up, and the connection is reset.
    http.behave(HttpBehaviour::from(HttpFault::Huge { bytes: 1 << 40 }));
    gives_up(&http, |request| request.status == Some(200));
}

#[test]
fn silence_is_not_a_byte() {
    let http = Http::start(Service::GreyNoise, hosts());
    http.behave(HttpFault::Silent);
    let mut client = Client::new(&http);
    client.send("/v3/community/8.8.8.8", &[]);
    wait_until(|| http.in_progress(), |count| *count == 1);
    // Another behaviour does not release a silent request. Only `Held` waits for that.
    http.behave(HttpBehaviour::normal());
    client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.stream.get_mut().read(&mut [0]).is_err());
    assert_eq!(http.in_progress(), 1);
}

#[test]
fn hanging_begins_after_the_head() {
    let http = Http::start(Service::GreyNoise, hosts());
    http.behave(HttpFault::Hang);
    let mut client = Client::new(&http);
    client.send("/v3/community/8.8.8.8", &[]);
    let head = client.head().unwrap();
    assert_eq!(head.status, 200);
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 0);
    assert!(client.nothing_yet());
    assert_eq!((http.in_progress(), http.requests()[0].ended), (1, None));
    http.stop();
    assert_eq!(client.rest(), b"");
}

#[test]
fn an_answer_can_come_a_byte_at_a_time() {
    let every = Duration::from_millis(1);
    let (http, mut client, answer) = ask_of(HttpFault::Drip { every });
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.json()["ip"]), (200, &json!("185.220.101.7")));
    let request = &http.requests()[0];
    assert!(request.ended.unwrap() - request.at >= every * answer.body.len() as u32);
    http.behave(HttpBehaviour::normal());
    assert_eq!(client.ask("/v3/community/8.8.8.8").status, 200);
}

#[test]
fn half_a_body_and_the_end() {
    for behaviour in [HttpFault::CutBody.into(), HttpBehaviour::from(HttpFault::CutBody).chunked()] {
        let (http, mut client, answer) = ask_of(behaviour);
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.whole), (200, false));
        assert!(answer.body.len() > 20);
        assert_eq!(client.rest(), b"");
        assert!(http.requests()[0].ended.is_some());
    }
}

#[test]
fn bodies_that_are_not_what_they_should_be() {
    let (_http, _, answer) = ask_of(HttpFault::NotJson);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());

    let (_http, _, answer) = ask_of(HttpFault::Html404);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(answer.body.starts_with(b"<!DOCTYPE html>"));

    let (_http, mut client, answer) = ask_of(HttpFault::EmptyBody);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("0"), 0));
    assert!(client.ask("/v3/community/8.8.8.8").body.is_empty());

    let (http, mut client, answer) = ask_of(HttpFault::Garbage(1000));
    assert!(answer.is_none());
    assert_eq!(http.requests()[0].status, None);
    client.rest();
    let mut client = Client::new(&http);
    client.send("/v3/community/8.8.8.8", &[]);
    assert_eq!(client.rest().len(), 1000);
}

#[test]
fn wrong_types_spare_only_the_address() {
    let wrong = |service| {
        let http = Http::start(service, hosts());
        http.behave(HttpFault::WrongTypes);
        Client::new(&http).ask(&path(service, "185.220.101.7")).json()
    };
    let body = wrong(Service::GreyNoise);
    assert_eq!((&body["ip"], &body["noise"]), (&json!("185.220.101.7"), &json!("yes")));
    assert!(body["classification"].is_number());
    let body = wrong(Service::Dshield);
    assert_eq!(
        (&body["ip"]["number"], &body["ip"]["count"]),
        (&json!("185.220.101.7"), &json!({"text": "880"}))
    );
    assert!(body["ip"]["ascountry"].is_number());
    let body = wrong(Service::Spur);
    assert_eq!((&body["tunnels"], &body["client"]["types"]), (&json!("list"), &json!("list")));
    let body = wrong(Service::GreyNoiseFull);
    assert_eq!(body["internet_scanner_intelligence"]["found"], "yes");
}

#[test]
fn another_address_is_answered_for() {
    for service in [Service::GreyNoise, Service::GreyNoiseFull, Service::Dshield, Service::Spur] {
        let http = Http::start(service, hosts());
        http.behave(HttpFault::OtherAddress);
        let body = Client::new(&http).ask(&path(service, "185.220.101.7")).json();
        let named = if service == Service::Dshield { &body["ip"]["number"] } else { &body["ip"] };
        assert_eq!(named, "185.220.101.6", "{service:?}");
        assert_eq!(http.requests()[0].ip, Some(ip("185.220.101.7")));
    }
}

#[test]
fn a_huge_text_is_json_to_its_end_in_each_framing() {
    let bytes = 300_000;
    let huge = || HttpBehaviour::from(HttpFault::Huge { bytes });
    for (behaviour, length, encoding) in [
        (huge(), Some("300000"), None),
        (huge().chunked(), None, Some("chunked")),
        (huge().closing(), None, None),
        (huge().chunked().closing(), None, Some("chunked")),
    ] {
        let close = behaviour.close;
        let (http, mut client, answer) = ask_of(behaviour);
        let answer = answer.unwrap();
        assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (length, encoding));
        assert!(answer.whole);
        assert_eq!(answer.body.len() as u64, bytes);
        assert_eq!(answer.json()["ip"], "185.220.101.7");
        http.behave(HttpBehaviour::normal());
        if close {
            assert_eq!(client.rest(), b"");
        } else {
            assert_eq!(client.ask("/v3/community/8.8.8.8").status, 200);
        }
        assert!(http.requests().iter().all(|request| request.ended.is_some()));
    }
}

#[test]
fn a_bomb_is_small_on_the_wire() {
    let bytes = 20_000_000;
    for chunked in [false, true] {
        let behaviour = HttpBehaviour::from(HttpFault::GzipBomb { bytes });
        let (_http, _, answer) = ask_of(if chunked { behaviour.chunked() } else { behaviour });
        let answer = answer.unwrap();
        assert_eq!(
            (answer.header("content-encoding"), answer.header("content-length")),
            (Some("gzip"), None)
        );
        assert!(answer.whole && answer.body.len() < 100_000, "{} bytes", answer.body.len());
        let text = gunzip(&answer.body);
        assert_eq!(text.len() as u64, bytes);
        assert!(text.starts_with(b"{\"ip\":\"185.220.101.7\"") && text.ends_with(b"\"}"));
    }
}

#[test]
fn bodies_are_compressed_and_come_in_chunks_where_that_is_wanted() {
    let plain = ask(Service::GreyNoise, "185.220.101.7").body;
    let (_http, _, answer) = ask_of(HttpBehaviour::normal().gzipped());
    let answer = answer.unwrap();
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(gunzip(&answer.body), plain);
    let (_http, mut client, answer) = ask_of(HttpBehaviour::normal().chunked());
    let answer = answer.unwrap();
    assert_eq!((answer.header("content-length"), answer.whole), (None, true));
    assert_eq!(answer.body, plain);
    assert_eq!(client.ask("/v3/community/185.220.101.7").body, plain);
    let (_http, _, answer) = ask_of(HttpBehaviour::normal().gzipped().chunked());
    assert_eq!(gunzip(&answer.unwrap().body), plain);
}

#[test]
fn headers_are_added_and_replace_those_of_their_name() {
    let behaviour =
        HttpBehaviour::normal().with_header("X-Cache", "HIT").with_header("Content-Type", "text/plain");
    let (_http, _, answer) = ask_of(behaviour);
    let answer = answer.unwrap();
    assert_eq!(answer.header("X-Cache"), Some("HIT"));
    assert_eq!((answer.header("Content-Type"), answer.header("content-type")), (Some("text/plain"), None));
}

#[test]
fn a_redirect_leads_where_it_is_told() {
    let (_http, _, answer) = ask_of(HttpFault::Redirect { to: "http://127.0.0.1:1/other".to_owned() });
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://127.0.0.1:1/other")));
}

#[test]
fn an_echo_repeats_every_header_of_the_request() {
    let http = Http::start(Service::Spur, hosts());
    http.behave(HttpFault::Echo);
    let mut client = Client::new(&http);
    client.send("/v2/context/8.8.8.8", &[("Token", "se\"cret"), ("User-Agent", "cowrie")]);
    let answer = client.receive().unwrap();
    assert_eq!(answer.status, 403);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("se\"cret") && message.contains("cowrie"), "{message}");
}

#[test]
fn a_custom_answer_is_a_function_of_the_request() {
    let custom = HttpFault::Custom(Arc::new(|request| CannedAnswer {
        status: 206,
        headers: vec![("x-path".to_owned(), request.path.clone())],
        body: format!("{:?}", request.ip.unwrap()).into_bytes(),
    }));
    let (_http, mut client, answer) = ask_of(custom);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("x-path")), (206, Some("/v3/community/185.220.101.7")));
    assert_eq!(
        (answer.body.as_slice(), answer.header("content-length")),
        (&b"185.220.101.7"[..], Some("13"))
    );
    assert_eq!(client.ask("/v3/community/8.8.8.8").body, b"8.8.8.8");
    // A `Content-Length` that is wrong is sent unchanged.
    let lies = HttpFault::Custom(Arc::new(|_| CannedAnswer {
        status: 200,
        headers: vec![
            ("Content-Length".to_owned(), "2".to_owned()),
            ("Connection".to_owned(), "close".to_owned()),
        ],
        body: b"longer".to_vec(),
    }));
    let (_http, mut client, _) = ask_of(lies);
    assert_eq!(client.rest(), b"");
    let mut client = Client::new(&_http);
    client.send("/v3/community/8.8.8.8", &[]);
    assert!(client.rest().ends_with(b"\r\n\r\nlonger"));
}

#[test]
fn a_stopped_server_refuses_and_starts_again_on_its_port() {
    let http = Http::start(Service::GreyNoise, hosts());
    let mut idle = Client::new(&http);
    idle.ask("/v3/community/8.8.8.8");
    http.behave(HttpFault::Held);
    let mut held = Client::new(&http);
    held.send("/v3/community/8.8.8.8", &[]);
    wait_until(|| http.in_progress(), |count| *count == 1);
    http.stop();
    assert_eq!((idle.rest(), held.rest()), (Vec::new(), Vec::new()));
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, http.port())).is_err());
    let cut = http.requests().pop().unwrap();
    assert_eq!((cut.ended.is_some(), cut.left, cut.status, http.in_progress()), (true, None, None, 0));
    http.stop();
    let url = http.url();
    http.start_again();
    http.start_again();
    http.behave(HttpBehaviour::normal());
    assert_eq!((Client::new(&http).ask("/v3/community/8.8.8.8").status, http.url()), (200, url));
    let port = http.port();
    drop(http);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn an_answer_has_ended_in_the_record_before_the_client_has_read_it() {
    let http = Http::start(Service::GreyNoise, Hosts::synthetic());
    std::thread::scope(|scope| {
        for n in 0..2_u8 {
            let http = &http;
            scope.spawn(move || {
                // Uses a new connection for each request. A connection may be accepted while the thread of an earlier
                // one still runs.
                for m in 0..200_u8 {
                    let answer = Client::new(http).ask(&format!("/v3/community/11.{n}.{m}.1"));
                    assert!(answer.whole);
                }
            });
        }
    });
    let requests = http.requests();
    assert_eq!(requests.len(), 400);
    assert!(requests.iter().all(|request| request.ended.is_some() && request.left.is_none()));
    assert!(http.most_at_once() <= 2, "{}", http.most_at_once());
    assert_eq!(http.in_progress(), 0);
}

#[test]
fn a_taken_port_is_an_error() {
    let http = Http::start(Service::Dshield, Hosts::empty());
    let address = (Ipv4Addr::LOCALHOST, http.port()).into();
    assert!(Http::start_on(address, Service::Spur, Hosts::empty()).is_err());
}
