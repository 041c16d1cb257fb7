//! Counts compared with the addresses that there are, and corrected by what they differ.
//!
//! Nothing is locked against anybody. One statement sees one moment of the database: the difference between what is and
//! what is believed then, stored and pending, stays right however long it takes to be folded. Two corrections from one
//! moment would be one too many, so there is one recount at a time.

use std::ffi::CStr;

use super::Home;
use crate::pg::exclusion::{Wait, exclude_others};
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Statement};

thread_local! {
    static NETWORKS: Statement = const { Statement::new(
        "recount_networks", include_str!("../../sql/queries/recount_networks.sql"), &[]) };
}

/// Compiling takes longer than it saves, and memory.
const SETTINGS: &[(&CStr, &CStr)] = &[(c"jit", c"off")];

/// Appends the corrections of networks; answers how many.
pub fn networks(home: Home, connection: &Connection) -> i64 {
    alone(home);
    with_settings(SETTINGS, || {
        NETWORKS
            .with(|statement| connection.run(statement, &[], |rows| rows.bigint(0, 1)))
            .unwrap_or_default()
    })
}

/// One recount at a time, until its corrections are committed.
fn alone(home: Home) {
    exclude_others(home.inventory, Wait::Yes);
}
