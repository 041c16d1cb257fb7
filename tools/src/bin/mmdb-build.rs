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
Writes MaxMind databases from lists of networks.

usage: mmdb-build [--city OUT] [--asn OUT] [--build-epoch SECONDS] [--record-size 24|28|32] LIST...

  --city OUT       country, city and coordinates, in the layout of GeoLite2-City
  --asn OUT        number and organisation, in the layout of GeoLite2-ASN
  --build-epoch N  the build time the file states, seconds since 1970 (default: now)
  --record-size N  bits of a tree record (default: the smallest that fits)

A LIST is tab or comma separated: either with a header out of
  prefix, country, country_name, city, latitude, longitude, accuracy_radius, asn, organization
or without one, as start,end,asn,organization (the files of the npm package @ip-location-db/asn).
Several lists count as one. Where networks overlap, the narrower one answers. OUT is replaced by rename.
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
                        return Err(format!("invalid record size {other}: 24, 28 or 32").into());
                    }
                });
            }
            Long("help") | Short('h') => return Ok(None),
            Value(list) => parsed.lists.push(list.into()),
            _ => return Err(argument.unexpected()),
        }
    }
    if parsed.outputs.is_empty() || parsed.lists.is_empty() {
        return Err("a LIST and --city or --asn are needed; see --help".into());
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
                format!(", {} left out (they repeat IPv4)", database.aliased)
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
