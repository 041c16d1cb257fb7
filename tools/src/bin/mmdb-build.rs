//! `mmdb-build`: builds MaxMind databases (.mmdb) from text lists of networks.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cowrie_enrich_tools::mmdb::{self, Layout, Settings};
use cowrie_enrich_tools::networks;
use lexopt::prelude::*;
use mmdb_writer::RecordSize;

const HELP: &str = "\
Builds MaxMind databases (mmdb files) from lists of networks.

usage: mmdb-build [--city OUT] [--asn OUT] [--build-epoch SECONDS] [--record-size 24|28|32] LIST...

  --city OUT       write country, city and coordinates, in the layout of GeoLite2-City
  --asn OUT        write ASN and organisation, in the layout of GeoLite2-ASN
  --build-epoch N  build time to store in the file, in seconds since 1970 (default: now)
  --record-size N  bits per tree record (default: the smallest size that fits)

A LIST is separated by tabs or commas. It has a header line with some of these columns:
  prefix, country, country_name, city, latitude, longitude, accuracy_radius, asn, organization
or no header and the columns start,end,asn,organization (as in the npm package @ip-location-db/asn).
Several lists are merged. If networks overlap, the longest prefix wins. OUT is replaced atomically.
";

struct Arguments {
    outputs: Vec<(Layout, PathBuf)>,
    lists: Vec<PathBuf>,
    settings: Settings,
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut parsed = Arguments { outputs: Vec::new(), lists: Vec::new(), settings: Settings::default() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("city") => parsed.outputs.push((Layout::City, parser.value()?.into())),
            Long("asn") => parsed.outputs.push((Layout::Asn, parser.value()?.into())),
            Long("build-epoch") => parsed.settings.build_epoch = Some(parser.value()?.parse()?),
            Long("record-size") => {
                parsed.settings.record_size = Some(match parser.value()?.parse()? {
                    24 => RecordSize::Bits24,
                    28 => RecordSize::Bits28,
                    32 => RecordSize::Bits32,
                    other => {
                        return Err(format!("invalid record size {other}; must be 24, 28 or 32").into());
                    }
                });
            }
            Long("help") | Short('h') => return Ok(None),
            Value(list) => parsed.lists.push(list.into()),
            _ => return Err(argument.unexpected()),
        }
    }
    if parsed.outputs.is_empty() || parsed.lists.is_empty() {
        return Err("a LIST and one of --city and --asn are required; see --help".into());
    }
    Ok(Some(parsed))
}

/// Replaces the file by rename. A reader that has mapped the old file keeps it.
fn publish(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial.{}", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut all = Vec::new();
    for list in &arguments.lists {
        let file =
            fs::File::open(list).map_err(|error| format!("could not read {}: {error}", list.display()))?;
        all.extend(
            networks::read(file).map_err(|error| format!("invalid list {}: {error}", list.display()))?,
        );
    }
    for (layout, output) in &arguments.outputs {
        let database = mmdb::build(&all, *layout, arguments.settings)?;
        publish(output, &database.bytes)
            .map_err(|error| format!("could not write {}: {error}", output.display()))?;
        eprintln!(
            "{}: {} networks, {} bytes{}, {:.1} s",
            output.display(),
            database.networks,
            database.bytes.len(),
            if database.aliased > 0 {
                format!(", {} networks omitted because they repeat IPv4 networks", database.aliased)
            } else {
                String::new()
            },
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
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
            eprintln!("mmdb-build: {error}");
            ExitCode::FAILURE
        }
    }
}
