//! Any bytes as an mmdb file that says types, as records of such a file, or as its table of lists.
#![no_main]

#[path = "../../engine/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    support::type_invariants::holds(support::type_invariants::file_of(*kind, rest));
});
