//! Networks, from the addresses that are known.

use super::{Options, Procedure, run};
use crate::pg::call::Call;

pub fn build(call: &Call) {
    let options = Options {
        procedure: Procedure::BuildAsnInventory,
        about: pgrx::pg_sys::InvalidOid,
        progress: true,
        needs_commits: false,
    };
    run(call, &options, |_| Vec::new());
}
