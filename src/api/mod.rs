//! What SQL calls.

mod administration;
mod cymru;
mod enriching;
mod generated;
mod lookup;
mod queue;
mod sessions;
mod worker;
