//! An answer of an OpenTelemetry collector.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariants::collector_answer(bytes));
