//! The toy shop: returns the toys at an address.
//!
//! Not a real provider: `tests/server/tests/fifth_provider.rs` copies this file into `engine/src/providers/` in a copy
//! of the sources, and adds it to the list of providers. The test shows that a new provider needs nothing else.
//!
//! ```text
//! GET <url>/<ip>
//!
//! 200 {"ip":"203.0.113.7","toys":["ball","kite"]}
//! 404 {"ip":"198.51.100.7"}                          ; no toys there
//! ```
//!
//! The answer is stored as it was sent, except for the address.

use super::http::settings::{absent_ttl, daily_quota, max_parallel, rate, timeout, ttl, url};
use super::http::{self, Backoff, Common, HTTP_PROXY, HttpProvider, HttpResponse, HttpService, ReadResult};
use super::{Answer, Finding, Purpose, Setting};
use crate::address::Address;
use std::time::Duration;

pub struct Toy;

pub static TOY_URL: Setting =
    url(c"cowrie_enrich.toy_url", c"URL at which the toy shop is asked.", c"https://toys.example/v1");
pub static TOY_RATE: Setting =
    rate(c"cowrie_enrich.toy_rate", c"Most requests to the toy shop in a second.", 5);
pub static TOY_MAX_PARALLEL: Setting =
    max_parallel(c"cowrie_enrich.toy_max_parallel", c"Most requests to the toy shop at the same time.", 2);
pub static TOY_DAILY_QUOTA: Setting =
    daily_quota(c"cowrie_enrich.toy_daily_quota", c"Most requests to the toy shop in a day.", 0);
pub static TOY_TIMEOUT: Setting =
    timeout(c"cowrie_enrich.toy_timeout", c"Longest duration of a request to the toy shop.");
pub static TOY_TTL: Setting =
    ttl(c"cowrie_enrich.toy_ttl", c"Time for which an answer of the toy shop is fresh.");
pub static TOY_ABSENT_TTL: Setting = absent_ttl(
    c"cowrie_enrich.toy_absent_ttl",
    c"Time for which it is fresh that the toy shop knows nothing of an address.",
);

static SERVICE: HttpService = HttpService {
    name: "toy",
    title: "The toy shop",
    purpose: Purpose::Facts,
    takes: |address| address.ip().is_ipv4(),
    settings: &[
        &TOY_URL,
        &TOY_RATE,
        &TOY_MAX_PARALLEL,
        &TOY_DAILY_QUOTA,
        &TOY_TIMEOUT,
        &TOY_TTL,
        &TOY_ABSENT_TTL,
        &HTTP_PROXY,
    ],
    common: Common {
        url: &TOY_URL,
        rate: &TOY_RATE,
        max_parallel: &TOY_MAX_PARALLEL,
        daily_quota: &TOY_DAILY_QUOTA,
        timeout: &TOY_TIMEOUT,
        ttl: &TOY_TTL,
        absent_ttl: &TOY_ABSENT_TTL,
    },
    suffix: "",
    key: None,
    contact: None,
    backoff: Backoff { default: Duration::from_secs(60), minimum: Duration::ZERO },
    read,
    notice: |_| None,
};

impl HttpProvider for Toy {
    fn service(&self) -> &'static HttpService {
        &SERVICE
    }
}

fn read(address: Address, response: &HttpResponse<'_>) -> Option<ReadResult> {
    if !matches!(response.status, 200 | 404) {
        return None;
    }
    let Some(mut object) = http::object(response.body) else {
        return Some(ReadResult::Malformed("the answer is not a JSON object"));
    };
    match http::names(&object, "ip", address) {
        Some(true) => {}
        Some(false) => return Some(ReadResult::Foreign),
        None => return Some(ReadResult::Malformed("the answer does not say whom it is about")),
    }
    object.remove("ip");
    let answer = if response.status == 404 {
        Answer::Absent(None)
    } else {
        Answer::Found(Finding { source_data: object, ..Finding::default() })
    };
    Some(ReadResult::Answer(answer))
}
