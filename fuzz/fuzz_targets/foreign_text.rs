//! Texts of documents from other systems: AS numbers, countries, registries, names, and JSON that `jsonb` cannot keep.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::foreign_text(bytes));
