//! The demo's whois server as a program: it writes its port, serves, and ends with the process of `--parent`.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use support::Killed;

fn program(arguments: &[&str]) -> Command {
    support::program(env!("CARGO_BIN_EXE_cymru-loopback"), arguments)
}

fn routes() -> String {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/cymru-routes.tsv");
    demo.to_str().unwrap().to_owned()
}

#[test]
fn serves_the_demos_routes_until_the_given_process_ends() {
    let parent = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut parent = Killed(parent);
    let port_file = std::env::temp_dir().join(format!("cymru-loopback-test-{}", std::process::id()));
    let pid = parent.0.id().to_string();
    let arguments =
        ["--routes", &routes(), "--port-file", port_file.to_str().unwrap(), "--delay", "1", "--parent", &pid];
    let mut server = Killed(program(&arguments).spawn().unwrap());
    let mut said = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let port: u16 = std::fs::read_to_string(&port_file).unwrap().trim().parse().unwrap();
    std::fs::remove_file(&port_file).unwrap();
    assert_eq!(said, format!("cymru-loopback: whois and DNS on 127.0.0.1:{port}\n"));

    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"begin\nverbose\n185.220.101.1\nend\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let row = answer.lines().nth(1).unwrap();
    assert!(row.starts_with("60729   | 185.220.101.1    | 185.220.101.0/24    | "), "{row}");

    // The process is not waited for yet. Being dead is enough.
    parent.0.kill().unwrap();
    assert!(server.0.wait().unwrap().success());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn errors_say_what_was_wrong() {
    let told = |arguments: &[&str]| {
        let Output { status, stderr, .. } = program(arguments).output().unwrap();
        assert!(!status.success());
        String::from_utf8(stderr).unwrap()
    };
    assert_eq!(told(&[]), "cymru-loopback: --routes is needed; see --help\n");
    assert!(told(&["--routes", "/nowhere"]).starts_with("cymru-loopback: could not read /nowhere: "));
    assert!(told(&["--routes", &routes(), "--parent", "4194305"]).contains("no process 4194305"));
    assert!(told(&["--routes", "/proc/self/status"]).contains("invalid list /proc/self/status: line 1: "));
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(told(&["--routes", &routes(), "--port", &port]).contains("could not listen on port"));
}
