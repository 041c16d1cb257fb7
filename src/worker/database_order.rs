//! The order in which databases get their workers. Databases that already had a worker come before other databases. Among them, the
//! database that got its first worker earliest comes first.
//!
//! The order protects existing databases from copies. A role that may create databases can copy a database that has the extension,
//! and each copy needs a worker. Without the order, the copies could use all workers, and other databases would have none. Only the
//! launcher writes the list. It writes a new file and renames it to `<data directory>/cowrie_enrich/workers.json`. The format is
//! `[[[OID, microseconds since 2000], …], [OID, …]]`. The second array contains the databases without the extension. If the file is
//! damaged or missing, the list is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::{self, clock};
use crate::telemetry;

/// Maximum size of the file in bytes. This is enough for about 30 thousand databases.
const LONGEST: u64 = 1 << 20;

/// The sort key of a database. The database with the lowest key comes first.
pub type SortKey = (Timestamp, bool, u32);

#[derive(Default)]
pub struct DatabaseOrder {
    /// The time when a worker first found the extension in a database, by the OID of the database.
    since: BTreeMap<u32, Timestamp>,
    /// Databases whose last worker found no extension.
    without: BTreeSet<u32>,
    is_changed: bool,
}

impl DatabaseOrder {
    pub fn read() -> DatabaseOrder {
        read().unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                telemetry::log_once_per_burst(
                    "could not read the list of databases with workers",
                    &error.to_string(),
                );
            }
            DatabaseOrder::default()
        })
    }

    /// Returns the key by which databases are sorted.
    pub fn sort_key(&self, database: u32) -> SortKey {
        let since = self.since.get(&database).copied().unwrap_or(Timestamp::INFINITY);
        (since, self.is_without_extension(database), database)
    }

    pub fn is_known(&self, database: u32) -> bool {
        self.since.contains_key(&database)
    }

    /// Returns true if the database's last worker found no extension, and no extension was announced after that.
    pub fn is_without_extension(&self, database: u32) -> bool {
        self.without.contains(&database)
    }

    pub fn databases(&self) -> impl Iterator<Item = u32> {
        self.since.keys().chain(&self.without).copied()
    }

    /// Adds a database whose worker has found the extension.
    pub fn add(&mut self, database: u32) {
        if !self.is_known(database) {
            self.since.insert(database, clock::now());
            self.is_changed = true;
        }
        self.announced(database);
    }

    /// Records that the extension may have been created in this database.
    pub fn announced(&mut self, database: u32) {
        self.is_changed |= self.without.remove(&database);
    }

    /// Records that a worker found no extension in this database.
    pub fn has_no_extension(&mut self, database: u32) {
        self.is_changed |= self.since.remove(&database).is_some() | self.without.insert(database);
    }

    /// Removes a database that was dropped.
    pub fn remove(&mut self, database: u32) {
        self.is_changed |= self.since.remove(&database).is_some() | self.without.remove(&database);
    }

    /// If the list has changed, writes it to the file. If the write fails, the next call tries again.
    pub fn write_if_changed(&mut self) {
        if std::mem::take(&mut self.is_changed)
            && let Err(error) = self.write()
        {
            self.is_changed = true;
            telemetry::log_once_per_burst(
                "could not write the list of databases with workers",
                &error.to_string(),
            );
        }
    }

    fn write(&self) -> io::Result<()> {
        let directory = directory();
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let since: Vec<(&u32, i64)> =
            self.since.iter().map(|(database, at)| (database, at.micros())).collect();
        let without: Vec<&u32> = self.without.iter().collect();
        let draft = directory.join("workers.json.draft");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(&(since, without))?)?;
        file.sync_all()?;
        fs::rename(&draft, directory.join("workers.json"))?;
        File::open(&directory)?.sync_all()
    }
}

fn directory() -> PathBuf {
    pg::data_directory().join("cowrie_enrich")
}

fn read() -> io::Result<DatabaseOrder> {
    let mut bytes = Vec::new();
    File::open(directory().join("workers.json"))?.take(LONGEST).read_to_end(&mut bytes)?;
    let (since, without): (Vec<(u32, i64)>, Vec<u32>) = serde_json::from_slice(&bytes)?;
    Ok(DatabaseOrder {
        since: since.into_iter().map(|(database, at)| (database, Timestamp::from_micros(at))).collect(),
        without: without.into_iter().collect(),
        is_changed: false,
    })
}
