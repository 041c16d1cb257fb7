//! Encodes spans as an OTLP request.
//!
//! | span | kind | attributes |
//! |---|---|---|
//! | `enrich.ensure_asn_inventory` | internal | `asn.number`, `.organization`, `.country`, `.rir`, `.operation`, `.source` |
//! | `enrich.batch` | internal | `enrich.provider`, `.batch_size`, `.answers`, `.outcome` |
//! | `connect`, `query` | client | `enrich.provider`, the same as in the parent span |
//! | `apply` | internal | none |
//!
//! If the name of the database is known, every span has this name as the attribute `db.namespace`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self, ResourceSpans, ScopeSpans, Status};
use prost::Message;

use super::{NetworkSpan, Operation, Request, Resource, Span, SpanDetails, number, scope, text};
use crate::providers;

/// Text of an attribute whose value is unknown.
const UNKNOWN: &str = "unknown";

/// Encodes spans as one request. `database` returns the name of the database that has the given OID, or `None` if the
/// name is not known.
pub fn traces(spans: &[Span], resource: &Resource, database: impl Fn(u32) -> Option<String>) -> Request {
    let spans: Vec<v1::Span> = spans.iter().map(|span| encoded(span, &database)).collect();
    let items = spans.len() as u64;
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.encoded()),
            scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: String::new() }],
            schema_url: String::new(),
        }],
    };
    Request { body: request.encode_to_vec(), items }
}

fn encoded(span: &Span, database: impl Fn(u32) -> Option<String>) -> v1::Span {
    let (name, kind) = match span.details {
        SpanDetails::Network(_) => ("enrich.ensure_asn_inventory", SpanKind::Internal),
        SpanDetails::Batch(_) => ("enrich.batch", SpanKind::Internal),
        SpanDetails::Connect => ("connect", SpanKind::Client),
        SpanDetails::Query => ("query", SpanKind::Client),
        SpanDetails::Apply => ("apply", SpanKind::Internal),
    };
    let mut attributes = attributes(&span.details);
    attributes.extend(database(span.database).map(|name| text("db.namespace", &name)));
    let status = (!span.error.is_empty())
        .then(|| Status { message: span.error.read(), code: StatusCode::Error as i32 });
    let parent = if span.parent == 0 { Vec::new() } else { span.parent.to_be_bytes().to_vec() };
    v1::Span {
        trace_id: span.trace.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: parent,
        name: name.to_owned(),
        kind: kind as i32,
        start_time_unix_nano: span.began,
        // The clock may have been set back.
        end_time_unix_nano: span.ended.max(span.began),
        attributes,
        status,
        ..v1::Span::default()
    }
}

fn attributes(details: &SpanDetails) -> Vec<KeyValue> {
    match details {
        SpanDetails::Network(network) => of_network(network),
        SpanDetails::Batch(batch) => {
            let provider = providers::ALL.get(usize::from(batch.provider));
            vec![
                text("enrich.provider", provider.map_or(UNKNOWN, |provider| provider.name())),
                number("enrich.batch_size", batch.lookups.into()),
                number("enrich.answers", batch.answers.into()),
                text("enrich.outcome", &batch.outcome.read()),
            ]
        }
        SpanDetails::Connect | SpanDetails::Query | SpanDetails::Apply => Vec::new(),
    }
}

fn of_network(network: &NetworkSpan) -> Vec<KeyValue> {
    let or_unknown = |text: String| if text.is_empty() { UNKNOWN.to_owned() } else { text };
    let letters = network.country.iter().all(u8::is_ascii_graphic);
    let country: String =
        if letters { network.country.map(char::from).iter().collect() } else { UNKNOWN.to_owned() };
    let operation = match network.operation {
        Operation::Create => "create",
        Operation::Update => "update",
    };
    let mut attributes = vec![
        number("asn.number", network.number.into()),
        text("asn.organization", &or_unknown(network.name.read())),
        text("asn.country", &country),
        text("asn.rir", &or_unknown(network.registry.read())),
        text("asn.operation", operation),
        text("asn.source", &or_unknown(network.source.read())),
    ];
    // If the span is about one network, this attribute is left out. The semantic conventions define it only for two or
    // more items.
    if network.together > 1 {
        attributes.push(number("db.operation.batch.size", network.together.into()));
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::span::tests::{batch, network};
    use super::super::{Text, new_id, new_trace};
    use super::*;

    fn read(request: &Request) -> Vec<v1::Span> {
        let read = ExportTraceServiceRequest::decode(&request.body[..]).unwrap();
        assert_eq!(read.resource_spans.len(), 1);
        read.resource_spans[0].scope_spans[0].spans.clone()
    }

    fn written(spans: &[Span]) -> Vec<v1::Span> {
        let resource = Resource { instance: "1".into() };
        let request = traces(spans, &resource, |oid| (oid == 16_384).then(|| "cowrie".to_owned()));
        assert_eq!(request.items, spans.len() as u64);
        read(&request)
    }

    #[test]
    fn a_networks_span_says_what_was_written() {
        let [span] = &written(&[network()])[..] else { panic!("one span") };
        assert_eq!(span.name, "enrich.ensure_asn_inventory");
        assert_eq!(span.trace_id, (1..=16).collect::<Vec<u8>>());
        assert_eq!(span.span_id, (0x11..=0x18).collect::<Vec<u8>>());
        assert_eq!((span.parent_span_id.len(), span.status.as_ref()), (0, None));
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 250_000);
        assert_eq!(
            span.attributes,
            [
                number("asn.number", 4_294_967_295),
                text("asn.organization", "中国联通"),
                text("asn.country", "CN"),
                text("asn.rir", "AFRINIC"),
                text("asn.operation", "update"),
                text("asn.source", "cymru"),
                number("db.operation.batch.size", 7),
                text("db.namespace", "cowrie"),
            ]
        );
    }

    #[test]
    fn what_nobody_knows_is_unknown() {
        let SpanDetails::Network(known) = network().details else { panic!("a network") };
        let bare = NetworkSpan {
            number: 64_500,
            name: Text::EMPTY,
            country: [0; 2],
            registry: Text::EMPTY,
            operation: Operation::Create,
            together: 1,
            ..known
        };
        let span = Span { details: SpanDetails::Network(bare), database: 1, ..network() };
        assert_eq!(
            written(&[span])[0].attributes,
            [
                number("asn.number", 64_500),
                text("asn.organization", "unknown"),
                text("asn.country", "unknown"),
                text("asn.rir", "unknown"),
                text("asn.operation", "create"),
                text("asn.source", "cymru"),
            ]
        );
    }

    #[test]
    fn a_batch_has_its_parts_and_its_failure() {
        let child =
            |details| Span { details, id: new_id(), parent: batch().id, error: Text::EMPTY, ..batch() };
        let spans = written(&[
            batch(),
            child(SpanDetails::Connect),
            child(SpanDetails::Query),
            child(SpanDetails::Apply),
        ]);
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["enrich.batch", "connect", "query", "apply"]);
        let status = spans[0].status.as_ref().unwrap();
        assert_eq!(status.code(), StatusCode::Error);
        assert_eq!(status.message, "the answer was not complete within the timeout");
        assert_eq!(
            spans[0].attributes,
            [
                text("enrich.provider", "cymru"),
                number("enrich.batch_size", 500),
                number("enrich.answers", 499),
                text("enrich.outcome", "timed_out"),
                text("db.namespace", "cowrie"),
            ]
        );
        for child in &spans[1..] {
            assert_eq!((&child.parent_span_id, &child.trace_id), (&spans[0].span_id, &spans[0].trace_id));
            assert_eq!(child.status, None);
        }
    }

    #[test]
    fn ids_are_never_zero_and_never_the_same() {
        let ids: std::collections::BTreeSet<u128> =
            (0..1000).map(|_| new_trace()).chain((0..1000).map(|_| new_id().into())).collect();
        assert!(ids.len() == 2000 && !ids.contains(&0));
    }
}
