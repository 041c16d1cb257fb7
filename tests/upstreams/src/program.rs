//! The common parts of the stand-ins that are programs: options with one value each, and a file with the address where
//! the program listens. A program may be started for another process. It ends when that process ends.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use std::{fs, io};

use lexopt::ValueExt;
use lexopt::prelude::{Long, Short};

/// The values of the options, by the option's name without its dashes.
pub struct Options(HashMap<String, OsString>);

impl Options {
    /// Returns `None` for `--help`.
    fn parse(names: &[&str]) -> Result<Option<Options>, lexopt::Error> {
        let mut given = HashMap::new();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            let name = match argument {
                Long("help") | Short('h') => return Ok(None),
                Long(name) if names.contains(&name) => name.to_owned(),
                _ => return Err(argument.unexpected()),
            };
            given.insert(name, parser.value()?);
        }
        Ok(Some(Options(given)))
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    pub fn needed_path(&self, name: &str) -> Result<PathBuf, String> {
        self.path(name).ok_or_else(|| format!("--{name} is needed; see --help"))
    }

    pub fn number<T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, lexopt::Error> {
        self.0.get(name).map(ValueExt::parse).transpose()
    }

    /// `--delay MS`
    pub fn delay(&self) -> Result<Duration, lexopt::Error> {
        Ok(Duration::from_millis(self.number("delay")?.unwrap_or(0)))
    }

    /// `--parent PID`
    pub fn parent(&self) -> Result<Option<Process>, Box<dyn Error>> {
        let pid = self.number("parent")?;
        Ok(pid.map(|pid| Process::find(pid).ok_or_else(|| format!("no process {pid}"))).transpose()?)
    }

    /// Reads the file of an option with `parse`.
    pub fn list<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        let path = self.needed_path(name)?;
        let list = path.display();
        let text = fs::read_to_string(&path).map_err(|e| format!("could not read {list}: {e}"))?;
        parse(&text).map_err(|e| format!("invalid list {list}: {e}"))
    }

    /// Writes the ports to the file of `--port-file`, if the option is set. The file appears with its whole content.
    pub fn publish(&self, text: &str) -> Result<(), String> {
        let Some(path) = self.path("port-file") else { return Ok(()) };
        write_by_rename(&path, text).map_err(|e| format!("could not write {}: {e}", path.display()))
    }
}

fn write_by_rename(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial.{}", std::process::id()));
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

/// A process that existed when it was looked up.
pub struct Process {
    pid: u32,
    /// Start time of the process, which tells it from a later process with the same id.
    born: String,
}

impl Process {
    fn find(pid: u32) -> Option<Process> {
        Some(Process { pid, born: birth(pid)? })
    }

    fn lives(&self) -> bool {
        birth(self.pid).is_some_and(|born| born == self.born)
    }
}

fn birth(pid: u32) -> Option<String> {
    // The line is `pid (name) state … starttime …`, and the start time is field 22. The name may contain blanks and
    // parentheses, so the fields after it are counted from the last parenthesis.
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // The process is dead, but its parent has not waited for it yet.
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

/// Returns when the process has ended. If there is no process, never returns. Calls `each_second` once a second, for
/// example to empty a record that nothing reads.
pub fn serve_while(parent: Option<&Process>, each_second: impl Fn()) {
    while parent.is_none_or(Process::lives) {
        std::thread::sleep(Duration::from_secs(1));
        each_second();
    }
}

/// Runs a program called `name`: prints its help, reads its options, does its work, and reports its errors.
pub fn run(
    name: &str,
    help: &str,
    options: &[&str],
    work: impl Fn(&Options) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let outcome = match Options::parse(options) {
        Ok(None) => {
            print!("{help}");
            Ok(())
        }
        Ok(Some(options)) => work(&options),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
