//! Status, headers and body of an answer of DShield.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::dshield_answer(bytes));
