//! Values that are more than a number: URLs, addresses, paths and key files in settings, and the header Retry-After.
#![no_main]

use cowrie_enrich_engine::invariants;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    invariants::http_settings(bytes);
    invariants::dns_server(bytes);
    invariants::collector_settings(bytes);
});
