//! Team Cymru's bulk whois about networks, whole and in pieces.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::network_answer(bytes));
