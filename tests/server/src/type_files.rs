//! Servers with mmdb files that say types of addresses.

use std::path::PathBuf;
use std::time::SystemTime;

use cowrie_enrich_test_mmdb::types::TypesFile;

use crate::cluster::{Cluster, Options};
use crate::cymru;
use crate::database::{Database, cluster_with_world, fresh_database};

pub const HOUR: u64 = 3_600;
pub const DAY: u64 = 24 * HOUR;

/// Returns the time this long ago, in seconds since 1970.
pub fn ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is right");
    now.as_secs() - seconds
}

/// Returns the path of a file of types of this server.
pub fn path(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.files().join(format!("{name}.mmdb"))
}

/// Makes the server use these files, which need not exist, and loads them.
pub fn configure(cluster: &Cluster, names: &[&str]) {
    let paths: Vec<String> = names.iter().map(|name| path(cluster, name).display().to_string()).collect();
    cymru::reconfigure(cluster, &[&format!("ip_type_databases = '{}'", paths.join(", "))]);
}

/// Returns a server that uses one file with these lists, and a database on it.
pub fn with_file<'a>(cluster: &'a Cluster, file: &TypesFile) -> Database<'a> {
    file.write(&path(cluster, "types"));
    configure(cluster, &["types"]);
    let mut db = fresh_database(cluster);
    db.run("SELECT reload_mmdb()");
    db
}

pub fn server(name: &str) -> Cluster {
    cluster_with_world(&Options::named(name))
}
