//! The setting `mmdb_max_age`, which is the maximum age of files of locations and of files of networks.
//!
//! Lookups do not use a file that is older than this setting allows, and the private copy of such a file is removed. The age is the
//! time since the file was built, according to the file's metadata. The setting does not apply to files with types of addresses
//! (see `types`).

use cowrie_enrich_engine::timestamp::Timestamp;

use super::Kind;
use crate::guc;
use crate::pg::clock;

/// Returns true if a file of this kind is too old. `build_epoch` is the time when the file was built, in
/// seconds since 1970. If the setting is on, a file without this time is too old.
pub fn is_too_old(kind: Kind, build_epoch: Option<i64>) -> bool {
    let is_limited = kind != Kind::Types;
    is_limited && oldest_build().is_some_and(|oldest| build_epoch.unwrap_or_default() < oldest)
}

/// Returns whether the setting is on.
pub fn is_on() -> bool {
    guc::mmdb_max_age().is_some()
}

/// Returns the earliest build time of a file that may be used, in seconds since 1970.
fn oldest_build() -> Option<i64> {
    let max_age = guc::mmdb_max_age()?;
    Some((clock::now().unix_seconds() - max_age.as_secs_f64()) as i64)
}

/// Returns an error text about a file that is too old.
pub fn describe(build_epoch: Option<i64>) -> String {
    let built = Timestamp::from_unix(build_epoch.unwrap_or_default()).to_iso8601();
    format!("the mmdb file is older than the setting mmdb_max_age allows; the file was built at {built}")
}
