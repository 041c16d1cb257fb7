//! Erases one address from all sessions and from all tables of the extension.

use cowrie_enrich_engine::mention::Wanted;

use super::erasure::{begin, documents, finish, sessions};
use super::refresh_session_counts::fold;
use super::{Options, Procedure, run};
use crate::error;
use crate::pg::Oid;
use crate::pg::sql_function::Call;
use crate::store::ExtensionOids;
use crate::store::erase::{self, Method, Which};
use crate::store::erase_tables::{self, Tables};
use crate::store::unfinished_erasures::ErasureKey;

/// Maximum number of attempts of a call. An attempt fails if another transaction has locked a session of the address. Each attempt
/// first waits for such transactions.
const ROUNDS: u32 = 10;

/// Entry point of `erase_address()`.
pub fn erase(call: &Call) {
    let Some(inet) = call.inet(0) else { error::null_argument("ip") };
    let address = inet.address;
    if !inet.is_host {
        error::not_a_host(address);
    }
    let Some(deletes) = call.boolean(1) else { error::null_argument("delete_sessions") };
    let method = if deletes { Method::Delete } else { Method::Anonymise };
    // A refused call is not a failed erasure, so the owners are checked before the call is stored.
    erase_tables::require_owner_of_all(ExtensionOids::of_caller(call));
    let options = Options {
        procedure: Procedure::EraseAddress,
        relation: Oid::INVALID,
        progress: false,
        needs_commits: true,
    };
    run(call, &options, |run| {
        let (oids, mut total) = (run.oids, 0);
        let key = ErasureKey {
            procedure: run.procedure(),
            relation: Oid::INVALID,
            address: Some(address),
            before: None,
        };
        begin(run, key);
        let (mut failure, mut mentions) = (None, None);
        for _ in 0..ROUNDS {
            // The tables are read for each attempt, because another table may have been attached since the last attempt.
            let tables = erase_tables::tables(oids, run.connection, Tables::All);
            total += sessions(run, &tables, Which::Of(address), method, None).0;
            // A failed attempt does not change documents, so they are read only once.
            if mentions.is_none() {
                mentions = Some(documents(run, &tables, &Wanted::new([address])));
            }
            run.begin("inventories", 0);
            let mut result = None;
            run.batch(|connection| {
                result = Some(erase::erase_address(oids, connection, &tables, address, method));
                1
            });
            match result {
                Some(Ok(rest)) => {
                    fold(run);
                    finish(run, key);
                    return vec![("sessions", total + rest), ("documents", mentions.unwrap_or_default())];
                }
                Some(Err(reason)) => failure = Some(reason),
                None => {}
            }
        }
        if let Some(failure) = failure {
            failure.raise();
        }
        Vec::new()
    });
}
