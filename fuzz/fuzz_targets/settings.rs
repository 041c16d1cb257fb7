//! Settings that are more than a number: URLs, addresses, paths, key files; and Retry-After.
#![no_main]

use cowrie_enrich_engine::promises;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    promises::http_settings(bytes);
    promises::dns_server(bytes);
    promises::collector_settings(bytes);
});
