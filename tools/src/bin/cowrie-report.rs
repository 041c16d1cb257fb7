//! `cowrie-report`: writes a report about the sessions of a honeypot as one HTML page.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use cowrie_enrich_tools::load::explained;
use cowrie_enrich_tools::report::{self, Options, page};
use cowrie_enrich_tools::{connection, publish};
use jiff::{SignedDuration, Timestamp};
use lexopt::prelude::*;
use postgres::NoTls;
use postgres::error::SqlState;

const HELP: &str = "\
Writes a report about the sessions of a honeypot as one HTML page, which needs no other file and no network.

usage: cowrie-report [--dsn CONNECTION] [--table TABLE] [--output FILE] [--days DAYS | --since TIME] [--until TIME]
                     [--rows NUMBER] [--show-passwords] [--stored-time-zone ZONE] [--memory MEGABYTES]
                     [--renewed-every HOURS]

  --dsn CONNECTION         connection string: 'host=… dbname=…' or postgresql://…. Missing parts come from PGHOST,
                           PGPORT, PGUSER, PGPASSWORD, PGDATABASE and PGOPTIONS. TLS is not supported.
  --table TABLE            the attached session table (default: sessions)
  --output FILE            replace this file (default: standard output). If the report fails, the old file stays.
  --days DAYS              only sessions of the last days
  --since TIME             only sessions at or after this time, for example 2024-05-01T00:00:00Z
  --until TIME             only sessions before this time
  --rows NUMBER            number of rows of a list (default: 20). A list of hidden passwords has at most 5.
  --show-passwords         show passwords, which are hidden by default
  --stored-time-zone ZONE  time zone of a time column without a time zone (default: UTC)
  --memory MEGABYTES       memory for counting passwords, commands and other values of campaigns (default: 512). If it is
                           too small, the server counts, which takes several times as long. 0: the server counts.
  --renewed-every HOURS    say on the page when the next one is due

The report reads one snapshot of the database, with the rights of the connection's role. A section for which the role
has no right, or whose table is missing, is left out with a sentence.
";

struct Arguments {
    dsn: String,
    output: Option<PathBuf>,
    options: Options,
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut parsed = Arguments {
        dsn: String::new(),
        output: None,
        options: Options {
            table: "sessions".to_owned(),
            since: None,
            until: None,
            last: None,
            stored_time_zone: "UTC".to_owned(),
            shows_passwords: false,
            rows: 20,
            memory: 512 << 20,
            renewed_every: None,
        },
    };
    let options = &mut parsed.options;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dsn") => parsed.dsn = parser.value()?.string()?,
            Long("table") => options.table = parser.value()?.string()?,
            Long("output") => parsed.output = Some(parser.value()?.into()),
            Long("days") => {
                options.last = Some(SignedDuration::from_hours(24 * positive(&mut parser, 36_500)?));
            }
            Long("since") => options.since = Some(time(&mut parser)?),
            Long("until") => options.until = Some(time(&mut parser)?),
            Long("rows") => options.rows = positive(&mut parser, 1000)? as usize,
            Long("show-passwords") => options.shows_passwords = true,
            Long("stored-time-zone") => options.stored_time_zone = parser.value()?.string()?,
            Long("memory") => options.memory = megabytes(&mut parser)? << 20,
            Long("renewed-every") => {
                options.renewed_every = Some(SignedDuration::from_hours(positive(&mut parser, 24 * 366)?));
            }
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if options.last.is_some() && options.since.is_some() {
        return Err("--days and --since cannot be combined; see --help".into());
    }
    if let (Some(since), Some(until)) = (options.since, options.until)
        && since >= until
    {
        return Err("--since must be earlier than --until".into());
    }
    Ok(Some(parsed))
}

/// Returns a time. Sessions before 1970 have no plausible time, and PostgreSQL does not know all times before its calendar.
fn time(parser: &mut lexopt::Parser) -> Result<Timestamp, lexopt::Error> {
    let time = parser.value()?.parse::<Timestamp>()?;
    if time < Timestamp::UNIX_EPOCH {
        return Err("the time must not be before 1970-01-01T00:00:00Z".into());
    }
    Ok(time)
}

fn positive(parser: &mut lexopt::Parser, most: u32) -> Result<i64, lexopt::Error> {
    parser.value()?.parse_with(|text| match text.parse::<u32>() {
        Ok(number) if (1..=most).contains(&number) => Ok(i64::from(number)),
        _ => Err(format!("the number must be between 1 and {most}")),
    })
}

fn megabytes(parser: &mut lexopt::Parser) -> Result<usize, lexopt::Error> {
    parser.value()?.parse_with(|text| match text.parse::<u32>() {
        Ok(number) if number <= 1 << 20 => Ok(number as usize),
        _ => Err("the number must be between 0 and 1048576"),
    })
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let config = connection::config_of("cowrie-report", &arguments.dsn)?;
    let mut client =
        config.connect(NoTls).map_err(|error| format!("could not connect: {}", explained(&error)))?;
    let report = report::read(&mut client, &arguments.options).map_err(|error| {
        match error.downcast_ref::<postgres::Error>() {
            Some(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => format!(
                "could not read the report: {}. docs/report.md#write-a-report has the grants that the role needs",
                explained(error)
            ),
            Some(error) => format!("could not read the report: {}", explained(error)),
            None => error.to_string(),
        }
    })?;
    let page = page::page(&report, &arguments.options);
    match &arguments.output {
        Some(path) => publish::publish(path, page.as_bytes())
            .map_err(|error| format!("could not write {}: {error}", path.display()))?,
        None => {
            let mut out = io::stdout().lock();
            out.write_all(page.as_bytes())
                .and_then(|()| out.flush())
                .map_err(|error| format!("could not write to standard output: {error}"))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("cowrie-report: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cowrie-report: {error}");
            ExitCode::FAILURE
        }
    }
}
