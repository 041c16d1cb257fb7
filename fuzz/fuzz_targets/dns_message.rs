//! Messages of a DNS server, and the texts in its records.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::dns_message(bytes));
