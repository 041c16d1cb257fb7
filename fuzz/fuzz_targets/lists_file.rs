//! Any bytes as a list of addresses: read, compiled, and looked up.
#![no_main]

#[path = "../../tools/tests/lists/invariants.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::holds(bytes));
