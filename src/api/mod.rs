//! What SQL calls.

mod administration;
mod cymru;
mod enriching;
mod generated;
mod lookup;
mod maintenance;
mod queue;
mod sessions;
mod worker;
