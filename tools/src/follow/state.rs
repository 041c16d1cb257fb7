//! The state file: what a stopped or killed program needs in order to continue.
//!
//! ```text
//! {"version": 2,
//!  "time": "2024-05-01T09:00:00Z",
//!  "logs": [{"id": 7, "name": "cowrie.json", "first": "2024-05-01T00:00:03.1Z", "bytes": 4711, "prefix": "…",
//!            "end": [310, "…"], "file": [2049, 77, 5000, 1714521603, 100000000], "is_compressed": false, …}],
//!  "open": [[{"eventid": "cowrie.session.connect", …}, …], …],
//!  "past": {"173332e506ca": ["stored", 1714521603100000, 1714557600]},
//!  "batches": [{"kind": "sessions", "is_committing": true, "transaction": null, "sessions": [[…], …]}]}
//! ```
//!
//! The file is written before each commit and contains the batch. So after a kill the batch is either not stored at
//! all, or stored completely, and the next run finds out which. The file replaces the old file by a rename, after it is
//! on disk. It contains the passwords that attackers tried, so only its owner can read it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::directory::FileVersion;
use super::fingerprint::{End, Fingerprint};
use super::position::{LogId, Position, Positions};
use super::remembered::{Fate, Past, Remembered};
use crate::session::Session;
use crate::session_lines::{from_lines, to_lines};

const VERSION: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sessions,
    /// Late events of sessions that are stored already.
    Late,
    /// Later events of a session that are written to a file.
    Aside(Fate),
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Sessions, Kind::Late, Kind::Aside(Fate::Rejected), Kind::Aside(Fate::Late)];

    fn name(self) -> &'static str {
        match self {
            Kind::Sessions => "sessions",
            Kind::Late => "late",
            Kind::Aside(Fate::Late) => "late, to a file",
            Kind::Aside(_) => "rejected, to a file",
        }
    }
}

/// Sessions that one transaction stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub kind: Kind,
    pub sessions: Vec<Session>,
    /// True if the batch may be committed already.
    pub is_committing: bool,
    /// Number of the transaction, for late events only.
    pub transaction: Option<i64>,
}

impl Batch {
    pub fn new(kind: Kind, sessions: Vec<Session>) -> Batch {
        Batch { kind, sessions, is_committing: false, transaction: None }
    }
}

/// Contents of a state file.
#[derive(Debug, Default, PartialEq)]
pub struct State {
    /// The time of the logs.
    pub time: Option<Timestamp>,
    pub positions: Positions,
    pub open: Vec<Session>,
    pub past: Remembered,
    pub batches: VecDeque<Batch>,
}

/// The directory of the state. Only one program at a time can use it.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Opens and locks the directory. The lock ends with the process.
    pub fn open(path: &Path) -> io::Result<StateDirectory> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDirectory { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::other("another cowrie-load uses it")),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Reads the state. A missing file is the state of a first start.
    pub fn load(&self) -> io::Result<State> {
        let text = match fs::read(self.path.join("state.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(error),
        };
        let value = serde_json::from_slice(&text)?;
        state_of(&value).ok_or_else(|| io::Error::other("is damaged, or a later version has written it"))
    }

    /// Replaces the state file. Returns after the new file is on disk.
    pub fn save<'a>(
        &self,
        positions: &Positions,
        open: impl Iterator<Item = &'a Session>,
        (time, past): (Option<Timestamp>, &Remembered),
        batches: impl Iterator<Item = &'a Batch>,
    ) -> io::Result<()> {
        let past: Map<String, Value> = past
            .iter()
            .map(|(id, past)| (id.clone(), json!([past.fate.name(), past.start, past.until])))
            .collect();
        let batches: Vec<Value> = batches
            .map(|batch| {
                json!({
                    "kind": batch.kind.name(),
                    "is_committing": batch.is_committing,
                    "transaction": batch.transaction,
                    "sessions": batch.sessions.iter().map(to_lines).collect::<Vec<_>>(),
                })
            })
            .collect();
        let state = json!({
            "version": VERSION,
            "time": time.map(|time| time.to_string()),
            "logs": positions.iter().map(|(id, position)| written(*id, position)).collect::<Vec<_>>(),
            "open": open.map(to_lines).collect::<Vec<_>>(),
            "past": past,
            "batches": batches,
        });
        let temporary = self.path.join("state.json.new");
        let mut file = BufWriter::new(private_file(&temporary, false)?);
        serde_json::to_writer(&mut file, &state)?;
        file.write_all(b"\n")?;
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, self.path.join("state.json"))?;
        File::open(&self.path)?.sync_all()
    }

    /// Appends a session to a file in the format of Cowrie's log. A session that is at the end of the file already is not
    /// appended again, because this program may have been killed after it had written the session.
    pub fn set_aside(&self, file_name: &str, session: &Session) -> io::Result<PathBuf> {
        let path = self.path.join(file_name);
        let mut text = String::new();
        for line in to_lines(session) {
            text += &line.to_string();
            text.push('\n');
        }
        let mut file = private_file(&path, true)?;
        let mut last = vec![0; text.len()];
        let before = file.metadata()?.len().checked_sub(text.len() as u64);
        let is_there = before.is_some_and(|at| file.read_exact_at(&mut last, at).is_ok());
        if !is_there || last != text.as_bytes() {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        Ok(path)
    }
}

fn written(id: LogId, position: &Position) -> Value {
    let Position { read, file, .. } = position;
    json!({
        "id": id.0,
        "name": position.name,
        "first": position.first.map(|first| first.to_string()),
        "bytes": read.bytes,
        "prefix": read.prefix.iter().map(|hash| format!("{hash:08x}")).collect::<String>(),
        "end": [read.end.length, format!("{:016x}", read.end.hash)],
        "file": [file.device, file.inode, file.size, file.modified.0, file.modified.1],
        "is_compressed": position.is_compressed,
        "is_exhausted": position.is_exhausted,
    })
}

fn position_of(log: &Value) -> Option<(LogId, Position)> {
    let hash = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let prefix: Option<Vec<u32>> = log["prefix"].as_str()?.as_bytes().chunks(8).map(hash).collect();
    let end =
        End { length: log["end"][0].as_u64()?, hash: u64::from_str_radix(log["end"][1].as_str()?, 16).ok()? };
    let number = |nth: usize| log["file"][nth].as_u64();
    let modified = (log["file"][3].as_i64()?, log["file"][4].as_i64()?);
    let position = Position {
        read: Fingerprint { bytes: log["bytes"].as_u64()?, prefix: prefix?, end },
        file: FileVersion { device: number(0)?, inode: number(1)?, size: number(2)?, modified },
        is_compressed: log["is_compressed"].as_bool()?,
        is_exhausted: log["is_exhausted"].as_bool()?,
        first: optional_time_of(&log["first"])?,
        name: log["name"].as_str()?.to_owned(),
    };
    Some((LogId(log["id"].as_u64()?), position))
}

fn past_of(value: &Value) -> Option<Past> {
    let fate = Fate::ALL.into_iter().find(|fate| Some(fate.name()) == value[0].as_str())?;
    Some(Past { fate, start: value[1].as_i64()?, until: value[2].as_i64()? })
}

fn private_file(path: &Path, is_appended: bool) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).mode(0o600);
    if is_appended {
        options.read(true).append(true)
    } else {
        options.write(true).truncate(true)
    };
    options.open(path)
}

fn state_of(value: &Value) -> Option<State> {
    if value["version"].as_u64() != Some(VERSION) {
        return None;
    }
    let mut state = State { time: optional_time_of(&value["time"])?, ..State::default() };
    for log in value["logs"].as_array()? {
        let (id, position) = position_of(log)?;
        state.positions.insert(id, position);
    }
    state.open = sessions_of(&value["open"])?;
    for (id, past) in value["past"].as_object()? {
        state.past.insert(id.clone(), past_of(past)?);
    }
    for batch in value["batches"].as_array()? {
        state.batches.push_back(Batch {
            sessions: sessions_of(&batch["sessions"])?,
            kind: Kind::ALL.into_iter().find(|kind| Some(kind.name()) == batch["kind"].as_str())?,
            is_committing: batch["is_committing"].as_bool()?,
            transaction: batch["transaction"].as_i64(),
        });
    }
    Some(state)
}

fn time_of(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn optional_time_of(value: &Value) -> Option<Option<Timestamp>> {
    if value.is_null() { Some(None) } else { time_of(value).map(Some) }
}

fn sessions_of(value: &Value) -> Option<Vec<Session>> {
    value.as_array()?.iter().map(|lines| from_lines(lines.as_array()?)).collect()
}

/// Returns the directory for the state: the given one, or that of the systemd unit.
pub fn state_directory(given: Option<&Path>) -> Option<PathBuf> {
    let of_unit = || {
        // systemd separates several directories by colons.
        let list = std::env::var("STATE_DIRECTORY").ok()?;
        list.split(':').next().filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    given.map(Path::to_path_buf).or_else(of_unit)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::log;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cowrie-load-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn session(id: &str) -> Session {
        let line =
            format!(r#"{{"session":"{id}","timestamp":"2024-05-01T00:00:00.5Z","src_ip":"192.0.2.1"}}"#);
        let entry = log::parse(line.as_bytes()).unwrap();
        Session::begin(&entry)
    }

    #[test]
    fn the_state_is_loaded_as_it_was_saved() {
        let path = directory("state");
        let directory = StateDirectory::open(&path).unwrap();
        assert_eq!(directory.load().unwrap(), State::default());
        let time: Timestamp = "2024-05-01T00:00:03.123456Z".parse().unwrap();
        let batch = |kind| Batch {
            kind,
            sessions: vec![session("b"), session("c")],
            is_committing: kind == Kind::Late,
            transaction: (kind == Kind::Late).then_some(9),
        };
        let position = Position {
            read: Fingerprint { bytes: 5, prefix: vec![7, u32::MAX], end: End { length: 3, hash: u64::MAX } },
            file: FileVersion { device: 1, inode: 2, size: 3, modified: (4, 5) },
            is_compressed: true,
            is_exhausted: false,
            first: Some(time),
            name: "cowrie.json".into(),
        };
        let past =
            Fate::ALL.into_iter().map(|fate| (fate.name().to_owned(), Past { fate, start: 1, until: -2 }));
        let state = State {
            time: Some(time),
            positions: [(LogId(7), position), (LogId(8), Position::default())].into(),
            open: vec![session("a")],
            past: past.collect(),
            batches: Kind::ALL.map(batch).into(),
        };
        let memory = (state.time, &state.past);
        directory.save(&state.positions, state.open.iter(), memory, state.batches.iter()).unwrap();
        assert_eq!(directory.load().unwrap(), state);
        let mode = fs::metadata(path.join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_state_is_an_error_and_no_first_start() {
        let path = directory("damaged");
        let directory = StateDirectory::open(&path).unwrap();
        for text in ["", "{}", "{\"version\":3}", "{\"version\":2,\"time\":null,\"logs\":[{}]}"] {
            fs::write(path.join("state.json"), text).unwrap();
            assert!(directory.load().is_err(), "{text}");
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn two_programs_cannot_use_one_state() {
        let path = directory("locked");
        let first = StateDirectory::open(&path).unwrap();
        assert!(StateDirectory::open(&path).unwrap_err().to_string().contains("another cowrie-load"));
        drop(first);
        StateDirectory::open(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_rejected_session_is_set_aside_as_lines_of_a_log() {
        let path = directory("rejected");
        let directory = StateDirectory::open(&path).unwrap();
        directory.set_aside("rejected.json", &session("a")).unwrap();
        let file = directory.set_aside("rejected.json", &session("b")).unwrap();
        // The program was killed, and writes the session again.
        directory.set_aside("rejected.json", &session("b")).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let ids: Vec<String> =
            text.lines().map(|line| log::parse(line.as_bytes()).unwrap().session).collect();
        assert_eq!(ids, ["a", "b"]);
        fs::remove_dir_all(path).unwrap();
    }
}
