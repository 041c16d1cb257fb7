//! `cymru-loopback`: Team Cymru for the demo, on 127.0.0.1, out of a table of routes.

use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, Dns, DnsBehaviour, Routes, Whois};
use lexopt::prelude::*;

const HELP: &str = "\
Answers as Team Cymru's bulk whois does, on 127.0.0.1, and on the same UDP port as its DNS does.

usage: cymru-loopback --routes FILE [--port N] [--port-file PATH] [--delay MS] [--parent PID]

  --routes FILE     tab-separated: prefix, asn, country, registry, allocated, name
  --port N          0, the default, takes one that is free
  --port-file PATH  where the number of the port is written, by rename, once connections are accepted
  --delay MS        before each answer (default: 0)
  --parent PID      end when this process has ended; without it, serve until killed
";

struct Arguments {
    routes: PathBuf,
    port: u16,
    port_file: Option<PathBuf>,
    delay: Duration,
    parent: Option<u32>,
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut routes = None;
    let (mut port, mut port_file, mut delay, mut parent) = (0, None, Duration::ZERO, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("routes") => routes = Some(PathBuf::from(parser.value()?)),
            Long("port") => port = parser.value()?.parse()?,
            Long("port-file") => port_file = Some(PathBuf::from(parser.value()?)),
            Long("delay") => delay = Duration::from_millis(parser.value()?.parse()?),
            Long("parent") => parent = Some(parser.value()?.parse()?),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    let routes = routes.ok_or("--routes is needed; see --help")?;
    Ok(Some(Arguments { routes, port, port_file, delay, parent }))
}

/// The moment at which a living process was started, which tells it from a later one of the same number.
fn birth(pid: u32) -> Option<String> {
    // pid (name) state … starttime …: the 22nd, and the name may hold blanks and parentheses.
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // Dead, but not yet waited for.
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

/// Whoever sees the file finds a whole number in it.
fn publish(path: &Path, port: u16) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial.{}", std::process::id()));
    fs::write(&partial, format!("{port}\n"))?;
    fs::rename(&partial, path)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let born = match arguments.parent {
        Some(pid) => Some(birth(pid).ok_or_else(|| format!("no process {pid}"))?),
        None => None,
    };
    let list = arguments.routes.display();
    let text = fs::read_to_string(&arguments.routes).map_err(|e| format!("could not read {list}: {e}"))?;
    let routes = Routes::from_tsv(&text).map_err(|e| format!("invalid list {list}: {e}"))?;

    let whois = Whois::start_on((Ipv4Addr::LOCALHOST, arguments.port).into(), routes.clone())
        .map_err(|e| format!("could not listen on port {}: {e}", arguments.port))?;
    whois.behave(Behaviour::normal().delayed(arguments.delay));
    let port = whois.port();
    // The TCP port of this number is the whois server's, and no answer is too long for a datagram.
    let dns = Dns::start_without_tcp_on((Ipv4Addr::LOCALHOST, port).into(), routes);
    if let Ok(dns) = &dns {
        dns.behave(DnsBehaviour::normal().delayed(arguments.delay));
    }
    if let Some(path) = &arguments.port_file {
        publish(path, port).map_err(|e| format!("could not write {}: {e}", path.display()))?;
    }
    let also = if dns.is_ok() { "whois and DNS" } else { "whois" };
    println!("cymru-loopback: {also} on 127.0.0.1:{port}");

    loop {
        std::thread::sleep(Duration::from_secs(1));
        // Nobody looks at these records, and they grow.
        whois.forget();
        if let Ok(dns) = &dns {
            dns.forget();
        }
        if let Some(pid) = arguments.parent
            && birth(pid) != born
        {
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    let outcome = match arguments() {
        Ok(None) => {
            print!("{HELP}");
            Ok(())
        }
        Ok(Some(arguments)) => run(&arguments),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cymru-loopback: {error}");
            ExitCode::FAILURE
        }
    }
}
