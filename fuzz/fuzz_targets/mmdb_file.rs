//! Any bytes as an mmdb file: opened, verified, and looked up in.
#![no_main]

#[path = "../../engine/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| support::invariants::holds(bytes.to_vec()));
