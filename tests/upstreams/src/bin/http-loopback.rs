//! `http-loopback`: stand-ins for GreyNoise, DShield and SPUR for the demo, on 127.0.0.1. Their data is a table of
//! hosts.

use std::error::Error;
use std::process::ExitCode;

use cowrie_enrich_upstreams::program::{self, Options};
use cowrie_enrich_upstreams::{Hosts, Http, HttpBehaviour, Service};

const HELP: &str = "\
Simulates the APIs of GreyNoise (Community), DShield and SPUR (context), each on a free port of 127.0.0.1.

usage: http-loopback --hosts FILE [--port-file PATH] [--delay MS] [--parent PID]

  --hosts FILE      tab-separated columns, - if unknown: prefix or address, classification, name, riot, country,
                    asn, as_name, reports, attacks, tunnels, infrastructure, devices
  --port-file PATH  write the URLs to this file when all servers are ready, one line for each of greynoise, dshield
                    and spur, for example `spur http://127.0.0.1:PORT/v2/context`
  --delay MS        wait before each answer (default: 0)
  --parent PID      exit when this process ends (default: run until killed)
";

const SERVICES: [(&str, Service); 3] =
    [("greynoise", Service::GreyNoise), ("dshield", Service::Dshield), ("spur", Service::Spur)];

fn work(options: &Options) -> Result<(), Box<dyn Error>> {
    let hosts = options.list("hosts", Hosts::from_tsv)?;
    let (delay, parent) = (options.delay()?, options.parent()?);
    let servers = SERVICES.map(|(_, service)| Http::start(service, hosts.clone()));
    let mut places = String::new();
    for ((name, _), http) in SERVICES.iter().zip(&servers) {
        http.behave(HttpBehaviour::normal().delayed(delay));
        places.push_str(&format!("{name} {}\n", http.url()));
    }
    options.publish(&places)?;
    print!("{places}");
    program::serve_while(parent.as_ref(), || servers.iter().for_each(Http::forget));
    Ok(())
}

fn main() -> ExitCode {
    program::run("http-loopback", HELP, &["hosts", "port-file", "delay", "parent"], work)
}
