//! What SQL calls.

mod administration;
mod enriching;
mod generated;
mod lookup;
mod sessions;
