//! Bytes of an HTTP server: heads, chunks, gzip.
#![no_main]

use cowrie_enrich_engine::promises;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| promises::http_answer(bytes));
