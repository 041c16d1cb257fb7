//! What SQL calls.

mod administration;
mod analysis;
mod cymru;
mod enriching;
mod generated;
mod lookup;
mod maintenance;
mod metrics;
mod queue;
mod sessions;
mod worker;
