//! The code that runs in a transaction that stores a session.
//!
//! | module | holds |
//! |---|---|
//! | `trigger` | the trigger: fills the snapshot columns, records sessions for the counts |
//! | `attribution` | the attribution of an address, cached between rows and transactions |
//! | `pending` | work that the trigger postpones to the end of the transaction |
//! | `pending_address` | the pending sessions of one address |
//! | `commit` | the steps that run before the transaction commits |

pub mod attribution;
mod commit;
pub mod pending;
mod pending_address;
pub mod trigger;
