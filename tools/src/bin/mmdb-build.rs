//! `mmdb-build`: builds MaxMind databases (.mmdb) from text lists of networks, and compiles lists of addresses.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cowrie_enrich_tools::lists::command::{self, KnownNetworks, Types};
use cowrie_enrich_tools::lists::{known_networks, list::Source};
use cowrie_enrich_tools::mmdb::{self, Layout, Settings};
use cowrie_enrich_tools::networks;
use cowrie_enrich_tools::publish::publish;
use lexopt::prelude::*;
use mmdb_writer::RecordSize;

const HELP: &str = "\
Builds MaxMind databases (mmdb files) from lists of networks.

usage: mmdb-build [--city OUT] [--asn OUT] [--build-epoch SECONDS] [--record-size 24|28|32]
                  [--database-type TYPE] LIST...
       mmdb-build --types OUT --list NAME:TYPE:FILE... [--asn-database FILE] [--force]
       mmdb-build --known-networks OUT --list NAME:TYPE:FILE...

  --city OUT       write country, city and coordinates, in the layout of GeoLite2-City
  --asn OUT        write ASN and organisation, in the layout of GeoLite2-ASN
  --build-epoch N  build time to store in the file, in seconds since 1970
                   (default: SOURCE_DATE_EPOCH with --types, otherwise now)
  --database-type TYPE
                   type to store in the file, which names the vendor of the data (default: mmdb-build City or
                   mmdb-build ASN)
  --record-size N  bits per tree record (default: the smallest size that fits)

A LIST is separated by tabs or commas. It has a header line with some of these columns:
  prefix, country, country_name, city, latitude, longitude, accuracy_radius, asn, organization
or no header and the columns start,end,asn,organization (as in the npm package @ip-location-db/asn).
Several lists are merged. If networks overlap, the longest prefix wins. OUT is replaced atomically.

  --types OUT             compile published lists to a file for the setting ip_type_databases
  --list NAME:TYPE:FILE   add a list. TYPE is a word in capitals such as TOR, VPN, PROXY, DATACENTER,
                          RESIDENTIAL_PROXY, RELAY or SCANNER_BENIGN. TYPE/PROVIDER also names a provider.
                          The same NAME again adds another FILE to the list
  --asn-database FILE     mmdb file with the prefixes of ASNs, for lists of ASNs
  --force                 accept a list with less than half of the networks that it has in OUT,
                          and replace an OUT that is not a compiled file
  --known-networks OUT    write lists of ASNs as CSV for the table known_networks. TYPE is HOSTING, VPN,
                          ISP, EDUCATION or GOVERNMENT

The format of a FILE is recognised from its content: lines of addresses, prefixes or ranges; Tor exit-addresses;
geofeeds; the JSON of AWS, Google, Azure and Oracle; JSON lines of Spamhaus; MISP warninglists; research scanners of
the ISC; lists of ASNs. docs/ip-types.md has the details.
";

/// The command line, checked.
enum Command {
    Networks {
        outputs: Vec<(Layout, PathBuf)>,
        lists: Vec<PathBuf>,
        database_type: Option<String>,
        settings: Settings,
    },
    Types(Types),
    KnownNetworks(KnownNetworks),
}

#[derive(Default)]
struct Arguments {
    outputs: Vec<(Layout, PathBuf)>,
    lists: Vec<PathBuf>,
    database_type: Option<String>,
    settings: Settings,
    types: Option<PathBuf>,
    known_networks: Option<PathBuf>,
    sources: Vec<String>,
    asn_database: Option<PathBuf>,
    force: bool,
}

/// Returns `None` if the user asks for help.
fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut parsed = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("city") => parsed.outputs.push((Layout::City, parser.value()?.into())),
            Long("asn") => parsed.outputs.push((Layout::Asn, parser.value()?.into())),
            Long("types") => parsed.types = Some(parser.value()?.into()),
            Long("known-networks") => parsed.known_networks = Some(parser.value()?.into()),
            Long("list") => parsed.sources.push(parser.value()?.string()?),
            Long("asn-database") => parsed.asn_database = Some(parser.value()?.into()),
            Long("force") => parsed.force = true,
            Long("build-epoch") => parsed.settings.build_epoch = Some(parser.value()?.parse()?),
            Long("database-type") => parsed.database_type = Some(parser.value()?.parse()?),
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
    Ok(Some(parsed))
}

impl Arguments {
    fn command(self) -> Result<Command, String> {
        let all = |parse: fn(&str) -> Result<Source, String>| {
            self.sources.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()
        };
        let is_networks = !self.outputs.is_empty() || !self.lists.is_empty();
        match (self.types, self.known_networks) {
            (Some(_), _) | (_, Some(_)) if is_networks => {
                Err("--types and --known-networks cannot be combined with --city, --asn or a LIST".into())
            }
            (Some(_), Some(_)) => Err("--types and --known-networks cannot be combined".into()),
            (Some(_), None) | (None, Some(_)) if self.sources.is_empty() => {
                Err("--list NAME:TYPE:FILE is required; see --help".into())
            }
            (Some(output), None) => Ok(Command::Types(Types {
                output,
                sources: all(Source::of_addresses)?,
                asn_database: self.asn_database,
                force: self.force,
                settings: Settings { build_epoch: build_epoch(self.settings.build_epoch)?, ..self.settings },
            })),
            (None, Some(output)) => {
                Ok(Command::KnownNetworks(KnownNetworks { output, sources: all(known_networks::source)? }))
            }
            (None, None) if self.outputs.is_empty() || self.lists.is_empty() => {
                Err("a LIST and one of --city, --asn, --types and --known-networks are required; see --help"
                    .into())
            }
            (None, None) => Ok(Command::Networks {
                outputs: self.outputs,
                lists: self.lists,
                database_type: self.database_type,
                settings: self.settings,
            }),
        }
    }
}

/// Returns the argument, or otherwise the time in the environment variable `SOURCE_DATE_EPOCH`.
fn build_epoch(argument: Option<u64>) -> Result<Option<u64>, String> {
    match (argument, std::env::var("SOURCE_DATE_EPOCH")) {
        (Some(seconds), _) => Ok(Some(seconds)),
        (None, Ok(text)) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("invalid SOURCE_DATE_EPOCH \"{text}\"; must be seconds since 1970")),
        (None, Err(_)) => Ok(None),
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Networks { outputs, lists, database_type, settings } => {
            build_networks(&outputs, &lists, database_type.as_deref(), settings)
        }
        Command::Types(types) => Ok(command::compile(&types, &mut |line| eprintln!("{line}"))?),
        Command::KnownNetworks(known) => {
            Ok(command::known_networks(&known, &mut |line| eprintln!("{line}"))?)
        }
    }
}

fn build_networks(
    outputs: &[(Layout, PathBuf)],
    lists: &[PathBuf],
    database_type: Option<&str>,
    settings: Settings,
) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut all = Vec::new();
    for list in lists {
        let file =
            fs::File::open(list).map_err(|error| format!("could not read {}: {error}", list.display()))?;
        all.extend(
            networks::read(file).map_err(|error| format!("invalid list {}: {error}", list.display()))?,
        );
    }
    for (layout, output) in outputs {
        let database = mmdb::build_as(&all, *layout, database_type, settings)?;
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
        Ok(Some(arguments)) => arguments.command().map_err(Into::into).and_then(run),
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
