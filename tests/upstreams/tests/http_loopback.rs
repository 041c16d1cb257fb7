//! The demo's three services as a program: it writes its ports, serves, and ends with the process of `--parent`.

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cowrie_enrich_upstreams::{Host, Hosts};
use serde_json::Value;
use support::Killed;

fn program(arguments: &[&str]) -> Command {
    support::program(env!("CARGO_BIN_EXE_http-loopback"), arguments)
}

fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo").join(file)
}

fn hosts() -> String {
    demo("hosts.tsv").to_str().unwrap().to_owned()
}

fn get(url: &str) -> (u16, Value) {
    let (place, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(place).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn serves_the_demos_hosts_until_the_given_process_ends() {
    let parent = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut parent = Killed(parent);
    let port_file = std::env::temp_dir().join(format!("http-loopback-test-{}", std::process::id()));
    let pid = parent.0.id().to_string();
    let arguments =
        ["--hosts", &hosts(), "--port-file", port_file.to_str().unwrap(), "--delay", "1", "--parent", &pid];
    let mut server = Killed(program(&arguments).spawn().unwrap());
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let said: Vec<String> = (0..3).map(|_| said.next().unwrap().unwrap()).collect();
    let written = std::fs::read_to_string(&port_file).unwrap();
    std::fs::remove_file(&port_file).unwrap();
    assert_eq!(written, said.join("\n") + "\n");
    let places: HashMap<&str, &str> = written.lines().map(|line| line.split_once(' ').unwrap()).collect();

    let ask = |service: &str, rest: &str| get(&format!("{}/{rest}", places[service]));
    let (status, body) = ask("greynoise", "162.142.125.172");
    assert_eq!((status, &body["noise"], &body["classification"]), (200, &true.into(), &"benign".into()));
    assert_eq!(ask("greynoise", "129.132.169.228").0, 404);
    let (status, body) = ask("dshield", "218.92.166.155?json");
    assert_eq!((status, &body["ip"]["ascountry"], &body["ip"]["as"]), (200, &"CN".into(), &4134.into()));
    let (status, body) = ask("spur", "185.220.101.175");
    assert_eq!((status, &body["tunnels"][0]["type"]), (200, &"TOR".into()));

    // The process is not waited for yet. Being dead is enough.
    parent.0.kill().unwrap();
    assert!(server.0.wait().unwrap().success());
    let place = places["spur"].strip_prefix("http://").unwrap().split('/').next().unwrap();
    assert!(TcpStream::connect(place).is_err());
}

#[test]
fn errors_say_what_was_wrong() {
    let told = |arguments: &[&str]| {
        let Output { status, stderr, .. } = program(arguments).output().unwrap();
        assert!(!status.success());
        String::from_utf8(stderr).unwrap()
    };
    assert_eq!(told(&[]), "http-loopback: --hosts is needed; see --help\n");
    assert!(told(&["--hosts", "/nowhere"]).starts_with("http-loopback: could not read /nowhere: "));
    assert!(told(&["--hosts", "/proc/self/status"]).contains("invalid list /proc/self/status: line 1: "));
    assert!(told(&["--hosts", &hosts(), "--parent", "4194305"]).contains("no process 4194305"));
    assert!(told(&["--hosts", &hosts(), "--delay", "soon"]).contains("soon"));
    assert!(told(&["--port", "1"]).contains("invalid option '--port'"));
    let help = program(&["--help"]).output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"Simulates the APIs of GreyNoise"));
}

#[test]
fn each_kind_of_host_occurs_in_the_demos_list() {
    let text = std::fs::read_to_string(hosts()).unwrap();
    let list = Hosts::from_tsv(&text).unwrap();
    let of = |address: &str| list.of(address.parse::<IpAddr>().unwrap());
    // The first address of each prefix.
    let rows = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let all: Vec<Host> = rows.map(|row| of(row.split(['/', '\t']).next().unwrap())).collect();
    let any = |what: &str, is: &dyn Fn(&Host) -> bool| assert!(all.iter().any(is), "{what}");
    for class in ["benign", "malicious", "suspicious", "unknown"] {
        any(class, &|host| host.classification.as_deref() == Some(class));
    }
    for kind in ["VPN", "TOR", "PROXY"] {
        any(kind, &|host| host.tunnels.iter().any(|tunnel| tunnel.kind == kind));
    }
    for place in ["DATACENTER", "RESIDENTIAL", "MOBILE"] {
        any(place, &|host| host.infrastructure.as_deref() == Some(place) && host.tunnels.is_empty());
    }
    any("a business service", &|host| host.riot);
    any("unknown to GreyNoise", &|host| host.classification.is_none() && !host.riot);
    any("unreported", &|host| host.reports.is_none() && host.asn.is_some());
    assert_eq!(of("25.85.242.143"), Host::default());
}
