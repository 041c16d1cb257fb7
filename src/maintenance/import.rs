//! Taking over an installation of the Python system.

use super::{Options, Procedure, run};
use crate::pg::call::Call;

pub fn take_over(call: &Call) {
    let options = Options {
        procedure: Procedure::ImportInventory,
        about: pgrx::pg_sys::InvalidOid,
        progress: true,
        needs_commits: false,
    };
    run(call, &options, |_| Vec::new());
}
