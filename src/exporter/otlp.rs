//! Sends metrics and spans to an OpenTelemetry collector: metrics every `otlp_interval`, and spans a few seconds after they arrive.
//!
//! There is at most one running request for metrics and one for spans, and no further requests wait in a queue. If the collector
//! did not accept metrics, these metrics are dropped, because the next request has newer values. If the collector deferred a
//! request with spans, these spans are kept for a few attempts. Newer spans wait in the ring buffer until the buffer is full. If no
//! endpoint is set, no process creates spans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::net::{Notifier, Pool};
use cowrie_enrich_engine::otlp::{self, Export, Outcome, Request, Resource, Signal, Span};
use cowrie_enrich_engine::{backoff, random};

use crate::guc;
use crate::pg::{self, background, catalog, clock, transaction};
use crate::shared_state;
use crate::telemetry::cells::{DeliveryOutcome, ResponseKind};
use crate::telemetry::{self, Exporter, exported, spans};

/// Timeout of one request. The timeout covers the time from the resolution of the host name to the last byte of the answer. The
/// OpenTelemetry specification has the same default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of spans in one request. A request of this size has about 150 kB. The next request sends the remaining spans.
const MOST_SPANS: usize = 512;
/// How often the exporter checks for spans.
const SPANS_EVERY: Duration = Duration::from_secs(5);
/// Pause before a request is sent again. The first pause is `RETRY_BASE`. Each further pause is twice as long, up to `RETRY_CAP`.
/// If the collector requests a pause, this pause is used, up to `LONGEST_PAUSE`.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Maximum number of attempts to send the same spans. All attempts together take about two minutes.
const MOST_ATTEMPTS: u32 = 8;

pub struct Otlp {
    pool: Pool<Export>,
    tickets: u64,
    resource: Resource,
    /// The endpoint of the last requests.
    endpoint: Option<String>,
    metrics: Line,
    traces: Line,
}

/// The requests of one kind.
struct Line {
    signal: Signal,
    /// Earliest time of the next request.
    due: Instant,
    /// Number of consecutive attempts that failed or that the collector deferred. When an attempt succeeds, this number is set to
    /// zero.
    failures: u32,
    /// The request in flight, with its ticket.
    under_way: Option<(u64, Request)>,
    /// The request to send again.
    again: Option<Request>,
}

impl Otlp {
    /// The threads use `notifier`; the exporter polls and drains it.
    pub fn new(notifier: &Arc<Notifier>) -> Otlp {
        Otlp {
            pool: Pool::with_notifier(Arc::clone(notifier)),
            tickets: 0,
            resource: Resource { instance: pg::server_identity() },
            endpoint: None,
            metrics: Line::of(Signal::Metrics),
            traces: Line::of(Signal::Traces),
        }
    }

    /// Handles finished requests, reads the settings again, and sends the requests whose time has come. Returns the time at which
    /// the exporter must call this function again even if no notification arrives.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.collect(now);
        let Some(endpoint) = guc::otlp_endpoint() else {
            self.rest();
            return None;
        };
        spans::collect(Some(guc::otlp_sample_ratio()));
        if self.endpoint.as_ref() != Some(&endpoint) {
            self.endpoint = Some(endpoint.clone());
            [&mut self.metrics, &mut self.traces].into_iter().for_each(|line| line.turn(now));
        }
        if self.metrics.failures == 0 {
            // The interval may have been shortened.
            self.metrics.due = self.metrics.due.min(now + guc::otlp_interval());
        }
        if self.metrics.is_due(now) {
            self.send_metrics(&endpoint, now);
        }
        // If there are enough spans for a full request, the request is sent before its scheduled time.
        if self.traces.is_due(now)
            || self.traces.may_go_on() && shared_state::block().spans.len() >= MOST_SPANS
        {
            self.send_spans(&endpoint, now);
        }
        [&self.metrics, &self.traces].into_iter().filter_map(Line::next).min()
    }

    fn collect(&mut self, now: Instant) {
        for finished in self.pool.finished() {
            for line in [&mut self.metrics, &mut self.traces] {
                line.heard(finished.ticket, &finished.done, now);
            }
        }
    }

    /// Stops all requests, because the endpoint is unset.
    fn rest(&mut self) {
        abandon_spans();
        let kept = self.traces.again.take().map_or(0, |request| request.items);
        spans::dropped(i64::try_from(kept).unwrap_or(i64::MAX));
        self.pool.cancel();
        let now = Instant::now();
        for line in [&mut self.metrics, &mut self.traces] {
            (line.due, line.failures) = (now, 0);
        }
    }

    fn send_metrics(&mut self, endpoint: &str, now: Instant) {
        // If a request is sent late, no extra request follows, because each request contains the current values of all metrics.
        self.metrics.due = now + guc::otlp_interval();
        match super::snapshot() {
            Ok(families) => {
                let since = telemetry::counted_since().unix_nanoseconds();
                let request = otlp::metrics(&families, &self.resource, since, clock::unix_nanoseconds());
                self.send(Signal::Metrics, endpoint, request, now);
            }
            Err(why) => exported(Exporter::Otlp, Err(&why)),
        }
    }

    fn send_spans(&mut self, endpoint: &str, now: Instant) {
        self.traces.due = now + SPANS_EVERY.min(guc::otlp_interval());
        let request = self.traces.again.take().or_else(|| self.new_spans());
        if let Some(request) = request {
            self.send(Signal::Traces, endpoint, request, now);
        }
    }

    fn new_spans(&self) -> Option<Request> {
        let taken: Vec<Span> = std::iter::from_fn(spans::take).take(MOST_SPANS).collect();
        if taken.is_empty() {
            return None;
        }
        // If the lookup fails, the spans are sent without names.
        let names = transaction::run(|| names(&taken)).unwrap_or_default();
        Some(otlp::traces(&taken, &self.resource, |database| names.get(&database).cloned()))
    }

    fn send(&mut self, signal: Signal, endpoint: &str, mut request: Request, now: Instant) {
        self.tickets += 1;
        let ticket = self.tickets;
        let body = match signal {
            // Metrics are not sent again, and may be megabytes.
            Signal::Metrics => std::mem::take(&mut request.body),
            Signal::Traces => request.body.clone(),
        };
        let export = Export { signal, endpoint: endpoint.to_owned(), body, timeout: TIMEOUT };
        let started = background::without_signals(|| self.pool.start(ticket, export));
        let line = match signal {
            Signal::Metrics => &mut self.metrics,
            Signal::Traces => &mut self.traces,
        };
        line.under_way = Some((ticket, request));
        if let Err(error) = started {
            let why =
                format!("could not start a thread for requests to the OpenTelemetry collector: {error}");
            line.heard(ticket, &Outcome::Deferred { rest: None, why }, now);
        }
    }
}

/// A later exporter must not find old spans.
impl Drop for Otlp {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Stops the collection of spans and drops the collected ones.
pub fn abandon_spans() {
    spans::collect(None);
    let left = std::iter::from_fn(spans::take).count();
    spans::dropped(i64::try_from(left).unwrap_or(i64::MAX));
}

/// Returns the names of the databases in which these spans were created. Leaves out databases that were dropped.
fn names(of: &[Span]) -> BTreeMap<u32, String> {
    let databases: BTreeSet<u32> = of.iter().map(|span| span.database).collect();
    let name = |oid: u32| catalog::database_name(oid.into()).map(|name| (oid, name));
    databases.into_iter().filter_map(name).collect()
}

impl Line {
    fn of(signal: Signal) -> Line {
        Line { signal, due: Instant::now(), failures: 0, under_way: None, again: None }
    }

    /// Switches to another collector. Ends the current pause, because the previous collector requested it. Ignores the result of
    /// the request that is running now. If this request contains spans, they are sent again to the new collector, because the
    /// previous collector may not have accepted them.
    fn turn(&mut self, now: Instant) {
        (self.due, self.failures) = (now, 0);
        let under_way = self.under_way.take().map(|(_, request)| request);
        if self.signal == Signal::Traces && self.again.is_none() {
            self.again = under_way;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.due <= now
    }

    /// Returns whether a request could be sent if it were due.
    fn may_go_on(&self) -> bool {
        self.under_way.is_none() && self.failures == 0
    }

    /// Returns the time of the next request. Returns `None` while a request is running, because a notification will report the end
    /// of this request.
    fn next(&self) -> Option<Instant> {
        self.under_way.is_none().then_some(self.due)
    }

    /// Handles the end of a request, if the request was for this signal (metrics or spans). Ignores all other requests.
    fn heard(&mut self, ticket: u64, outcome: &Outcome, now: Instant) {
        let Some((_, request)) = self.under_way.take_if(|(of, _)| *of == ticket) else { return };
        let (signal, items) = (self.signal, request.items);
        match outcome {
            Outcome::Taken { rejected, words } => {
                self.failures = 0;
                let rejected = (*rejected).min(items);
                let deliveries =
                    [(DeliveryOutcome::Taken, items - rejected), (DeliveryOutcome::Rejected, rejected)];
                telemetry::answered(signal, ResponseKind::Taken, &deliveries);
                exported(Exporter::Otlp, Ok(()));
                if rejected > 0 || !words.is_empty() {
                    let detail = format!(
                        "the collector rejected {rejected} of {items} items ({}): {words}",
                        signal.name()
                    );
                    telemetry::log_once_per_burst(
                        "the OpenTelemetry collector rejected items or sent a warning",
                        &detail,
                    );
                }
            }
            Outcome::Deferred { rest, why } => {
                self.failures = self.failures.saturating_add(1);
                let pause = rest.map(|rest| rest.min(LONGEST_PAUSE));
                let pause = pause
                    .unwrap_or_else(|| backoff::delay(self.failures, RETRY_BASE, RETRY_CAP, random::unit()));
                self.due = now + pause;
                let is_kept = signal == Signal::Traces && self.failures < MOST_ATTEMPTS;
                let deliveries = if is_kept || signal == Signal::Metrics { 0 } else { items };
                telemetry::answered(
                    signal,
                    ResponseKind::Deferred,
                    &[(DeliveryOutcome::Dropped, deliveries)],
                );
                self.failed(why);
                self.again = is_kept.then_some(request);
                if !is_kept && signal == Signal::Traces {
                    self.failures = 0;
                }
            }
            Outcome::Refused(why) => {
                self.failures = 0;
                telemetry::answered(signal, ResponseKind::Refused, &[(DeliveryOutcome::Rejected, items)]);
                self.failed(why);
            }
        }
    }

    fn failed(&self, why: &str) {
        exported(Exporter::Otlp, Err(&format!("{}: {why}", self.signal.name())));
    }
}
