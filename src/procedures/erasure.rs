//! Code that is shared by the procedures that erase addresses.

use super::Run;
use crate::error;
use crate::store::erase::{Method, SessionTable, Which};

/// The erasure fails if this number of consecutive attempts found sessions, but could erase none of them.
const ATTEMPTS: u32 = 3;

/// Erases sessions of some tables, in batches. Returns the number of erased sessions.
pub fn sessions(run: &mut Run, tables: &[SessionTable], which: Which, method: Method) -> i64 {
    let mut total = 0;
    run.begin("sessions", 0);
    for table in tables {
        let (mut page, mut failures) = (Some(0), 0);
        while let Some(from) = page {
            let mut erased = None;
            run.batch(|connection| {
                let result = table.erase(connection, from, which, method);
                let written = result.written;
                erased = Some(result);
                written
            });
            let Some(erased) = erased else { break };
            total += erased.written;
            failures = if erased.written == 0 { failures + 1 } else { 0 };
            if erased.written == erased.found {
                (page, failures) = (erased.next, 0);
            } else if failures == ATTEMPTS {
                // The last `ATTEMPTS` attempts found sessions, but could erase none of them.
                error::could_not_erase(&table.name());
            }
        }
    }
    total
}
