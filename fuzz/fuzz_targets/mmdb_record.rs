//! Any bytes as records of a valid mmdb file. The tree of the file also leads into the middle of records.
#![no_main]

#[path = "../../engine/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, record)) = bytes.split_first() else { return };
    support::invariants::holds(support::invariants::file_with_records(*kind, record));
});
