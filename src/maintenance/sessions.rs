//! Sessions that were there before their table was attached.

use super::{Options, Procedure, run};
use crate::pg::call::Call;

pub fn backfill(call: &Call) {
    let options = Options {
        procedure: Procedure::BackfillSessions,
        about: pgrx::pg_sys::InvalidOid,
        progress: true,
        needs_commits: false,
    };
    run(call, &options, |_| Vec::new());
}
