//! What SQL calls.

mod administration;
mod cymru;
mod enriching;
mod generated;
mod lookup;
mod sessions;
mod worker;
