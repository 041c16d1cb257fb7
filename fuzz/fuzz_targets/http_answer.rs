//! Bytes of an HTTP server: heads, chunks, gzip.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::http_answer(bytes));
