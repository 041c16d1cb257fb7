//! The code that runs in a transaction that stores a session.
//!
//! | module | holds |
//! |---|---|
//! | `trigger` | the trigger: fills the snapshot columns, records sessions for the counts |
//! | `attribution` | the attribution of an address, cached between rows and transactions |
//! | `pending` | sessions that the trigger leaves for the end of the transaction |
//! | `pending_address` | the record of one address among them |
//! | `commit` | the steps of the commit |

pub mod attribution;
mod commit;
pub mod pending;
mod pending_address;
pub mod trigger;
