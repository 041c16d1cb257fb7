//! The functions that SQL calls.

mod address_list;
mod administration;
mod analysis;
mod cymru;
mod enrich;
mod inventory_columns;
mod ip_types;
mod lookup;
mod mentions;
mod metrics;
mod procedures;
mod queue;
mod sessions;
mod worker;
