//! What is sent to a collector of OpenTelemetry's.

use std::sync::Arc;
use std::time::Instant;

use cowrie_enrich_engine::net::Bell;

use crate::guc;

pub struct Otlp {}

impl Otlp {
    /// `bell` is rung by its threads; the exporter listens and silences.
    pub fn new(_bell: &Arc<Bell>) -> Otlp {
        Otlp {}
    }

    /// Looks at what came back and does what is due, reading the settings anew; answers when to come back without a
    /// ring.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        guc::otlp_endpoint().map(|_| now + guc::otlp_interval())
    }
}
