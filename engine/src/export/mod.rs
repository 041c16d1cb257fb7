//! Answers: how do measured numbers leave the server?
//!
//! The rule: what leaves is bytes that somebody else has finished; nothing here asks for a number of the server's, and
//! nothing here can hold the server up.
//!
//! | file | answers for |
//! |---|---|
//! | `status` | what the status files say |
//! | `settings` | where to: what may be set, and what is wrong with what may not |

pub mod settings;
pub mod status;
