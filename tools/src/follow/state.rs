//! The state file: what a stopped or killed program needs in order to continue.
//!
//! ```text
//! {"version": 1,
//!  "logs": [{"id": "…", "name": "cowrie.json", "first": "2024-05-01T00:00:03.1Z", "bytes": 4711}],
//!  "open": [[{"eventid": "cowrie.session.connect", …}, …], …],
//!  "stored": {"173332e506ca": "2024-05-01T10:00:00Z"},
//!  "batches": [{"kind": "sessions", "is_committing": true, "transaction": null, "sessions": [[…], …]}]}
//! ```
//!
//! The file is written before each commit and contains the batch. So after a kill the batch is either not stored at
//! all, or stored completely, and the next run finds out which. The file replaces the old file by a rename, after it is
//! on disk. It contains the passwords that attackers tried, so only its owner can read it.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::head::LogId;
use super::logs::Position;
use super::open::Remembered;
use crate::session::Session;
use crate::session_lines::{from_lines, to_lines};

const VERSION: u64 = 1;

/// Sessions that one transaction stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub sessions: Vec<Session>,
    /// True if these are late events of sessions that are stored already.
    pub is_late: bool,
    /// True if the batch may be committed already.
    pub is_committing: bool,
    /// Number of the transaction, for late events only.
    pub transaction: Option<i64>,
}

/// Contents of a state file.
#[derive(Debug, Default, PartialEq)]
pub struct State {
    pub positions: HashMap<LogId, Position>,
    pub open: Vec<Session>,
    pub stored: Remembered,
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
        positions: &HashMap<LogId, Position>,
        open: impl Iterator<Item = &'a Session>,
        stored: &Remembered,
        batches: &VecDeque<Batch>,
    ) -> io::Result<()> {
        let logs: Vec<Value> = positions
            .iter()
            .map(|(id, position)| {
                json!({
                    "id": format!("{:032x}", id.0),
                    "name": position.name,
                    "first": position.first.to_string(),
                    "bytes": position.bytes,
                })
            })
            .collect();
        let stored: Map<String, Value> =
            stored.iter().map(|(id, until)| (id.clone(), until.to_string().into())).collect();
        let batches: Vec<Value> = batches
            .iter()
            .map(|batch| {
                json!({
                    "kind": if batch.is_late { "late" } else { "sessions" },
                    "is_committing": batch.is_committing,
                    "transaction": batch.transaction,
                    "sessions": batch.sessions.iter().map(to_lines).collect::<Vec<_>>(),
                })
            })
            .collect();
        let state = json!({
            "version": VERSION,
            "logs": logs,
            "open": open.map(to_lines).collect::<Vec<_>>(),
            "stored": stored,
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

    /// Appends a session to the file of sessions that the database refuses. The file has the format of Cowrie's log.
    pub fn set_aside(&self, session: &Session) -> io::Result<PathBuf> {
        let path = self.path.join("rejected.json");
        let mut text = String::new();
        for line in to_lines(session) {
            text += &line.to_string();
            text.push('\n');
        }
        let mut file = private_file(&path, true)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(path)
    }
}

fn private_file(path: &Path, is_appended: bool) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).mode(0o600);
    if is_appended {
        options.append(true)
    } else {
        options.write(true).truncate(true)
    };
    options.open(path)
}

fn state_of(value: &Value) -> Option<State> {
    if value["version"].as_u64() != Some(VERSION) {
        return None;
    }
    let mut state = State::default();
    for log in value["logs"].as_array()? {
        let id = LogId(u128::from_str_radix(log["id"].as_str()?, 16).ok()?);
        let first = time_of(&log["first"])?;
        let name = log["name"].as_str()?.to_owned();
        state.positions.insert(id, Position { bytes: log["bytes"].as_u64()?, first, name });
    }
    state.open = sessions_of(&value["open"])?;
    for (id, until) in value["stored"].as_object()? {
        state.stored.insert(id.clone(), time_of(until)?);
    }
    for batch in value["batches"].as_array()? {
        state.batches.push_back(Batch {
            sessions: sessions_of(&batch["sessions"])?,
            is_late: batch["kind"].as_str()? == "late",
            is_committing: batch["is_committing"].as_bool()?,
            transaction: batch["transaction"].as_i64(),
        });
    }
    Some(state)
}

fn time_of(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
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
        let batch = |is_late, transaction| Batch {
            sessions: vec![session("b"), session("c")],
            is_late,
            is_committing: is_late,
            transaction,
        };
        let state = State {
            positions: [(LogId(77), Position { bytes: 5, first: time, name: "cowrie.json".into() })].into(),
            open: vec![session("a")],
            stored: [("d".to_owned(), time)].into(),
            batches: [batch(false, None), batch(true, Some(9))].into(),
        };
        directory.save(&state.positions, state.open.iter(), &state.stored, &state.batches).unwrap();
        assert_eq!(directory.load().unwrap(), state);
        let mode = fs::metadata(path.join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_state_is_an_error_and_no_first_start() {
        let path = directory("damaged");
        let directory = StateDirectory::open(&path).unwrap();
        for text in ["", "{}", "{\"version\":2}", "{\"version\":1,\"logs\":[{}]}"] {
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
        directory.set_aside(&session("a")).unwrap();
        let file = directory.set_aside(&session("b")).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let ids: Vec<String> =
            text.lines().map(|line| log::parse(line.as_bytes()).unwrap().session).collect();
        assert_eq!(ids, ["a", "b"]);
        fs::remove_dir_all(path).unwrap();
    }
}
