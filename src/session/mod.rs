//! Everything that happens in the transaction that stores a session.
//!
//! | module | holds |
//! |---|---|
//! | `trigger` | the trigger: fills the snapshot columns, records sessions for the counts |
//! | `attribution` | the attribution of an address, cached between rows and transactions |
//! | `pending` | work that the trigger leaves for the end of the transaction |

pub mod attribution;
pub mod pending;
pub mod trigger;
