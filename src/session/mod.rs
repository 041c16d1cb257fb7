//! The path of a session: what happens in the transaction that stores it.
//!
//! | module | holds |
//! |---|---|
//! | `trigger` | the trigger: fills the snapshot columns, notes what to count |
//! | `attribution` | what the trigger finds out about an address, kept between rows and transactions |
//! | `pending` | what the trigger leaves for the end of the transaction |

pub mod attribution;
pub mod pending;
pub mod trigger;
