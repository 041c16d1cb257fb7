//! `cowrie-load`: loads Cowrie's JSON logs into Cowrie's PostgreSQL schema.

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cowrie_enrich_tools::connection;
use cowrie_enrich_tools::follow::{self, Follower, OpenLimits};
use cowrie_enrich_tools::grants::{self, Program};
use cowrie_enrich_tools::load::{LoadCounts, Loader, TABLES, explained};
use cowrie_enrich_tools::log::{self, Rejected};
use cowrie_enrich_tools::session::{Limits, Session, SessionAssembler};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use lexopt::prelude::*;

const HELP: &str = "\
Loads JSON logs of the honeypot Cowrie into the tables of Cowrie's own PostgreSQL schema.

usage: cowrie-load [--dsn CONNECTION] [--from TIME] [--until TIME] [--batch SESSIONS] FILE|DIRECTORY...
       cowrie-load --follow DIRECTORY --state DIRECTORY [--metrics FILE] [--idle SECONDS]
                   [--dsn CONNECTION] [--from TIME] [--batch SESSIONS]
       cowrie-load --print-grants TABLE [--role ROLE] [--for follow|files|output_postgresql]
       cowrie-load --print-schema

  FILE              log file, plain or compressed with gzip or xz; `-` is standard input.
                    Name rotated logs in the order in which they were written.
  DIRECTORY         load cowrie.json in this directory, and the rotated logs, in the order of their first events
  --dsn CONNECTION  connection string: 'host=… dbname=…' or postgresql://…. Missing parts come from PGHOST,
                    PGPORT, PGUSER, PGPASSWORD, PGDATABASE and PGOPTIONS. TLS is not supported.
  --from TIME       load only events at or after this time, for example 2024-05-01T00:00:00Z
  --until TIME      load only events before this time
  --batch SESSIONS  number of sessions per transaction (default: 5000)
  --quiet           print only the last line of the report

The tables must exist (--print-schema prints the statements that create them). Loading the same log again changes nothing. Invalid
lines, values that are too long, and sessions without a connect event are counted and do not stop the load.

  --follow DIRECTORY  store the sessions of all logs in this directory, and of new logs, until stopped:
                      cowrie.json and the names that rotation gives it, plain or compressed
  --state DIRECTORY   directory for the position in the logs (default: the variable STATE_DIRECTORY)
  --metrics FILE      write metrics to this file, for the textfile collector of node_exporter
  --idle SECONDS      store a session without an end after this time without an event (default: 3600)

With --follow each session is stored once, even if the program is killed. The program needs only the privilege INSERT
on the table of sessions, and does not change a stored session.

  --print-grants TABLE  print the GRANT statements that a role needs; TABLE is the table of sessions
  --role ROLE           the role in these statements (default: cowrie_load)
  --for PROGRAM         the program that uses the role (default: follow)
  --print-schema        print the statements that create the tables of Cowrie's own schema
";

/// The statements that create Cowrie's tables.
const SCHEMA: &str = include_str!("../../../demo/cowrie-schema.sql");

/// The end of an error message about a database without Cowrie's tables.
const CREATE_TABLES: &str = "; the statements of `cowrie-load --print-schema` create them";

#[derive(Default)]
struct Arguments {
    dsn: String,
    files: Vec<PathBuf>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    batch: Option<usize>,
    quiet: bool,
    follow: Option<PathBuf>,
    state: Option<PathBuf>,
    metrics: Option<PathBuf>,
    idle: Option<Duration>,
    print_grants: Option<String>,
    print_schema: bool,
    role: Option<String>,
    program: Option<Program>,
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut parsed = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dsn") => parsed.dsn = parser.value()?.string()?,
            Long("from") => parsed.from = Some(parser.value()?.parse()?),
            Long("until") => parsed.until = Some(parser.value()?.parse()?),
            Long("batch") => {
                parsed.batch = Some(parser.value()?.parse_with(|text| match text.parse() {
                    Ok(number) if number > 0 => Ok(number),
                    _ => Err("the number of sessions must be at least 1"),
                })?);
            }
            Long("quiet") | Short('q') => parsed.quiet = true,
            Long("follow") => parsed.follow = Some(parser.value()?.into()),
            Long("state") => parsed.state = Some(parser.value()?.into()),
            Long("metrics") => parsed.metrics = Some(parser.value()?.into()),
            Long("idle") => parsed.idle = Some(Duration::from_secs(parser.value()?.parse::<u32>()?.into())),
            Long("print-grants") => parsed.print_grants = Some(parser.value()?.string()?),
            Long("print-schema") => parsed.print_schema = true,
            Long("role") => parsed.role = Some(parser.value()?.string()?),
            Long("for") => {
                parsed.program = Some(parser.value()?.parse_with(|text| {
                    Program::ALL
                        .into_iter()
                        .find(|program| program.name() == text)
                        .ok_or("the program must be follow, files or output_postgresql")
                })?);
            }
            Long("help") | Short('h') => return Ok(None),
            Value(file) => parsed.files.push(file.into()),
            _ => return Err(argument.unexpected()),
        }
    }
    check(&parsed)?;
    Ok(Some(parsed))
}

/// Refuses options that cannot be combined.
fn check(parsed: &Arguments) -> Result<(), lexopt::Error> {
    let prints = parsed.print_grants.is_some() || parsed.print_schema;
    let follows = parsed.follow.is_some();
    for (given, option, allowed, how) in [
        (
            !parsed.files.is_empty(),
            "FILE",
            !prints && !follows,
            "without --follow, --print-grants and --print-schema",
        ),
        (parsed.until.is_some(), "--until", !prints && !follows, "with FILE"),
        (follows, "--follow", !prints, "without --print-grants and --print-schema"),
        (parsed.print_schema, "--print-schema", parsed.print_grants.is_none(), "without --print-grants"),
        (parsed.state.is_some(), "--state", follows, "with --follow"),
        (parsed.metrics.is_some(), "--metrics", follows, "with --follow"),
        (parsed.idle.is_some(), "--idle", follows, "with --follow"),
        (parsed.role.is_some(), "--role", parsed.print_grants.is_some(), "with --print-grants"),
        (parsed.program.is_some(), "--for", parsed.print_grants.is_some(), "with --print-grants"),
    ] {
        if given && !allowed {
            return Err(format!("{option} can only be used {how}; see --help").into());
        }
    }
    if parsed.files.is_empty() && !prints && !follows {
        return Err("no FILE given; see --help".into());
    }
    Ok(())
}

/// Follows a directory. Returns only if an error occurs.
fn follow(arguments: &Arguments, directory: PathBuf) -> Result<bool, Box<dyn Error>> {
    let state = follow::state_directory(arguments.state.as_deref())
        .ok_or("no directory for the position in the logs; give --state DIRECTORY")?;
    let defaults = OpenLimits::default();
    let mut follower = Follower::open(follow::Options {
        directory,
        state,
        metrics: arguments.metrics.clone(),
        database: connection::config(&arguments.dsn)?,
        limits: OpenLimits {
            batch: arguments.batch.unwrap_or(defaults.batch),
            idle: arguments.idle.unwrap_or(defaults.idle),
            ..defaults
        },
        from: arguments.from,
    })?;
    match follower.run()? {}
}

#[derive(Default)]
struct Lines {
    read: u64,
    malformed: u64,
    without_session: u64,
    outside: u64,
    repeated_connects: u64,
    /// Files that could not be read to their end, and the reasons.
    broken: Vec<String>,
}

/// Replaces each directory by the logs in it. Also returns the logs that cannot be read, with the reasons.
fn logs_of(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<String>), String> {
    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let (found, mut failed) =
            follow::logs_of(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
        if found.is_empty() && failed.is_empty() {
            return Err(format!(
                "no log of Cowrie in {}; the name of a log begins with cowrie.json",
                path.display()
            ));
        }
        files.extend(found);
        unreadable.append(&mut failed);
    }
    Ok((files, unreadable))
}

/// Reads all files and passes batches to `store`. Stops reading a file if `store` returns false.
fn read(
    arguments: &Arguments,
    files: &[PathBuf],
    bar: &ProgressBar,
    store: &mut dyn FnMut(Vec<Session>) -> bool,
) -> Lines {
    let mut lines = Lines::default();
    let defaults = Limits::default();
    let mut assembler =
        SessionAssembler::new(Limits { batch: arguments.batch.unwrap_or(defaults.batch), ..defaults });
    for path in files {
        if let Err(error) = read_file(path, arguments, bar, &mut assembler, &mut lines, store) {
            lines.broken.push(format!("{}: {error}", path.display()));
        }
    }
    lines.repeated_connects = assembler.repeated_connects;
    let rest = assembler.finish();
    if !rest.is_empty() {
        store(rest);
    }
    lines
}

fn read_file(
    path: &PathBuf,
    arguments: &Arguments,
    bar: &ProgressBar,
    assembler: &mut SessionAssembler,
    lines: &mut Lines,
    store: &mut dyn FnMut(Vec<Session>) -> bool,
) -> io::Result<()> {
    let mut input = if path.as_os_str() == "-" {
        log::decompressed(bar.wrap_read(io::stdin()))?
    } else {
        log::decompressed(bar.wrap_read(File::open(path)?))?
    };
    let mut line = Vec::new();
    while log::next_line(&mut *input, &mut line)?.is_some() {
        lines.read += 1;
        match log::parse(&line) {
            Ok(entry) => {
                if arguments.from.is_some_and(|from| entry.time < from)
                    || arguments.until.is_some_and(|until| entry.time >= until)
                {
                    lines.outside += 1;
                } else if let Some(batch) = assembler.push(entry)
                    && !store(batch)
                {
                    return Ok(());
                }
            }
            Err(Rejected::NoSession) => lines.without_session += 1,
            Err(Rejected::Blank) => lines.read -= 1,
            Err(Rejected::Malformed) => lines.malformed += 1,
        }
    }
    Ok(())
}

fn progress(files: &[PathBuf]) -> ProgressBar {
    let sizes: Option<u64> =
        files.iter().map(|file| std::fs::metadata(file).ok().map(|data| data.len())).sum();
    let (bar, template) = match sizes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {percent:>3} %  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    if arguments.print_schema {
        print!("{SCHEMA}");
        return Ok(true);
    }
    if let Some(table) = &arguments.print_grants {
        let program = arguments.program.unwrap_or(Program::Follow);
        print!("{}", grants::print(program, table, arguments.role.as_deref().unwrap_or("cowrie_load"))?);
        return Ok(true);
    }
    if let Some(directory) = &arguments.follow {
        return follow(arguments, directory.clone());
    }
    let (files, unreadable) = logs_of(&arguments.files)?;
    let config = connection::config(&arguments.dsn)?;
    let client =
        connection::open(&config).map_err(|error| format!("could not connect: {}", explained(&error)))?;
    let mut loader = Loader::new(client).map_err(|error| {
        format!("could not find Cowrie's tables in this database: {}{CREATE_TABLES}", explained(&error))
    })?;
    let started = Instant::now();
    let bar =
        if arguments.quiet || !io::stderr().is_terminal() { ProgressBar::hidden() } else { progress(&files) };
    // The log is parsed while the database stores. At most two batches wait in between.
    let (sender, batches) = mpsc::sync_channel::<Vec<Session>>(2);
    let (mut lines, stored) = std::thread::scope(|scope| {
        let storing = scope.spawn(|| -> Result<LoadCounts, postgres::Error> {
            let batches = batches;
            let mut stored = LoadCounts::default();
            while let Ok(batch) = batches.recv() {
                stored += loader.store(&batch)?;
                let seconds = started.elapsed().as_secs_f64();
                bar.set_message(format!(
                    "{} sessions, {:.0} a second",
                    stored.sessions,
                    stored.sessions as f64 / seconds
                ));
            }
            Ok(stored)
        });
        let lines = read(arguments, &files, &bar, &mut |batch| sender.send(batch).is_ok());
        drop(sender);
        (lines, storing.join())
    });
    bar.finish_and_clear();
    let stored = stored.map_err(|_| "the storing thread ended unexpectedly")?.map_err(|error| {
        format!("could not store a batch; earlier batches stay stored: {}", explained(&error))
    })?;
    lines.broken.extend(unreadable);
    report(arguments, &lines, &stored, started.elapsed());
    Ok(lines.broken.is_empty())
}

fn report(arguments: &Arguments, lines: &Lines, stored: &LoadCounts, took: Duration) {
    if !arguments.quiet {
        let count = |what: &str, number: u64| println!("{what:<44} {number:>9}");
        let noteworthy = |what: &str, number: u64| {
            if number > 0 {
                count(what, number);
            }
        };
        count("lines read", lines.read);
        noteworthy("  malformed, skipped", lines.malformed);
        noteworthy("  without a session, skipped", lines.without_session);
        noteworthy("  outside of --from and --until", lines.outside);
        count("sessions stored", stored.sessions);
        noteworthy("  without a connect event", stored.without_connect);
        noteworthy("  not closed in this log", stored.without_end);
        noteworthy("sessions that were stored before", stored.known);
        noteworthy("  completed by this load", stored.continued);
        noteworthy(
            "  different session with the same id, not stored",
            stored.other_of_same_id + lines.repeated_connects,
        );
        for table in TABLES {
            noteworthy(&format!("rows stored in {}", table.name()), stored.rows[table as usize]);
        }
        noteworthy("rows for missing tables, not stored", stored.without_table);
        noteworthy("values truncated to the column's length", stored.cut);
    }
    for broken in &lines.broken {
        eprintln!("cowrie-load: could not read all of {broken}");
    }
    let seconds = took.as_secs_f64();
    let sessions = stored.sessions + stored.known;
    println!(
        "{sessions} sessions, {} of them new, in {seconds:.2} s: {:.0} sessions a second",
        stored.sessions,
        sessions as f64 / seconds
    );
}

fn main() -> ExitCode {
    let outcome = match arguments() {
        Ok(None) => {
            print!("{HELP}");
            Ok(true)
        }
        Ok(Some(arguments)) => run(&arguments),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cowrie-load: {error}");
            ExitCode::FAILURE
        }
    }
}
