//! Addresses and blocks as session tables and providers hold them.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::ip_text(bytes));
