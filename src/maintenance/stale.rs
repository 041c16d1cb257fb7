//! Answers past their lifetime.

use super::{Options, Procedure, run};
use crate::pg::call::Call;

pub fn refresh(call: &Call) {
    let options = Options {
        procedure: Procedure::RefreshStale,
        about: pgrx::pg_sys::InvalidOid,
        progress: true,
        needs_commits: false,
    };
    run(call, &options, |_| Vec::new());
}
