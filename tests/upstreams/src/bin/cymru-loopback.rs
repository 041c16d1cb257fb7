//! `cymru-loopback`: a stand-in for Team Cymru for the demo, on 127.0.0.1. Its data is a table of routes.

use std::error::Error;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use cowrie_enrich_upstreams::program::{self, Options};
use cowrie_enrich_upstreams::{Behaviour, Dns, DnsBehaviour, Routes, Whois};

const HELP: &str = "\
Simulates Team Cymru on 127.0.0.1: the bulk whois service on a TCP port, and the DNS service on the UDP port of the same number.

usage: cymru-loopback --routes FILE [--port N] [--port-file PATH] [--delay MS] [--parent PID]

  --routes FILE     tab-separated columns: prefix, asn, country, registry, allocated, name
  --port N          port to listen on; 0 selects a free port (default: 0)
  --port-file PATH  write the port number to this file when the server is ready
  --delay MS        wait before each answer (default: 0)
  --parent PID      exit when this process ends (default: run until killed)
";

fn work(options: &Options) -> Result<(), Box<dyn Error>> {
    let routes = options.list("routes", Routes::from_tsv)?;
    let (delay, parent) = (options.delay()?, options.parent()?);
    let port = options.number("port")?.unwrap_or(0);

    let whois = Whois::start_on((Ipv4Addr::LOCALHOST, port).into(), routes.clone())
        .map_err(|e| format!("could not listen on port {port}: {e}"))?;
    whois.behave(Behaviour::normal().delayed(delay));
    let port = whois.port();
    // The whois server has the TCP port of this number. Every answer fits into a datagram.
    let dns = Dns::start_without_tcp_on((Ipv4Addr::LOCALHOST, port).into(), routes);
    if let Ok(dns) = &dns {
        dns.behave(DnsBehaviour::normal().delayed(delay));
    }
    options.publish(&format!("{port}\n"))?;
    let also = if dns.is_ok() { "whois and DNS" } else { "whois" };
    println!("cymru-loopback: {also} on 127.0.0.1:{port}");

    program::serve_while(parent.as_ref(), || {
        whois.forget();
        if let Ok(dns) = &dns {
            dns.forget();
        }
    });
    Ok(())
}

fn main() -> ExitCode {
    program::run("cymru-loopback", HELP, &["routes", "port", "port-file", "delay", "parent"], work)
}
