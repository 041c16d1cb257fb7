//! Data points and spans as plain values, for assertions.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::{ExportBody, ReceivedExport};

pub type Attributes = BTreeMap<String, String>;

#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    pub resource: Attributes,
    pub name: String,
    pub unit: String,
    /// `sum` (cumulative and monotonic), `histogram` (cumulative) or `gauge`; otherwise the text says which property is
    /// wrong.
    pub kind: String,
    pub attributes: Attributes,
    /// Nanoseconds since 1970.
    pub since: u64,
    pub at: u64,
    /// Of a histogram: the number of observations.
    pub value: f64,
    pub sum: f64,
    pub bounds: Vec<f64>,
    pub buckets: Vec<u64>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedSpan {
    pub resource: Attributes,
    pub name: String,
    /// In hexadecimal digits; empty: none.
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub began: u64,
    pub ended: u64,
    pub attributes: Attributes,
    /// The error message, if the span has an error status.
    pub error: Option<String>,
}

impl ReceivedExport {
    /// Data points, if metrics were sent.
    pub fn points(&self) -> Vec<Point> {
        let ExportBody::Metrics(all) = &self.sent else { return Vec::new() };
        let mut points = Vec::new();
        for of_resource in all {
            let resource = of(of_resource.resource.as_ref());
            for metric in of_resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let point = |kind: &str| Point {
                    resource: resource.clone(),
                    name: metric.name.clone(),
                    unit: metric.unit.clone(),
                    kind: kind.to_owned(),
                    attributes: Attributes::new(),
                    since: 0,
                    at: 0,
                    value: 0.0,
                    sum: 0.0,
                    bounds: Vec::new(),
                    buckets: Vec::new(),
                };
                let numbers = |kind: &str, numbers: &[NumberDataPoint]| -> Vec<Point> {
                    let number = |number: &NumberDataPoint| Point {
                        attributes: attributes(&number.attributes),
                        since: number.start_time_unix_nano,
                        at: number.time_unix_nano,
                        value: match number.value {
                            Some(Number::AsInt(value)) => value as f64,
                            Some(Number::AsDouble(value)) => value,
                            None => f64::NAN,
                        },
                        ..point(kind)
                    };
                    numbers.iter().map(number).collect()
                };
                let is_cumulative = |temporality| temporality == AggregationTemporality::Cumulative as i32;
                match &metric.data {
                    Some(Data::Sum(sum)) => {
                        let is_right = sum.is_monotonic && is_cumulative(sum.aggregation_temporality);
                        points
                            .extend(numbers(if is_right { "sum" } else { "another sum" }, &sum.data_points));
                    }
                    Some(Data::Gauge(gauge)) => points.extend(numbers("gauge", &gauge.data_points)),
                    Some(Data::Histogram(histogram)) => {
                        let is_right = is_cumulative(histogram.aggregation_temporality);
                        let kind = if is_right { "histogram" } else { "another histogram" };
                        points.extend(histogram.data_points.iter().map(|of| Point {
                            attributes: attributes(&of.attributes),
                            since: of.start_time_unix_nano,
                            at: of.time_unix_nano,
                            value: of.count as f64,
                            sum: of.sum.unwrap_or(f64::NAN),
                            bounds: of.explicit_bounds.clone(),
                            buckets: of.bucket_counts.clone(),
                            ..point(kind)
                        }));
                    }
                    _ => points.push(point("something else")),
                }
            }
        }
        points
    }

    /// Spans, if spans were sent.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        let ExportBody::Traces(all) = &self.sent else { return Vec::new() };
        let mut spans = Vec::new();
        for of_resource in all {
            let resource = of(of_resource.resource.as_ref());
            for span in of_resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let status = span.status.clone().unwrap_or_default();
                let is_error = status.code == StatusCode::Error as i32;
                spans.push(ReceivedSpan {
                    resource: resource.clone(),
                    name: span.name.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    attributes: attributes(&span.attributes),
                    error: is_error.then_some(status.message),
                });
            }
        }
        spans
    }
}

fn of(resource: Option<&Resource>) -> Attributes {
    resource.map(|resource| attributes(&resource.attributes)).unwrap_or_default()
}

fn attributes(all: &[KeyValue]) -> Attributes {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref().and_then(|any| any.value.as_ref()).map(text);
        (pair.key.clone(), value.unwrap_or_default())
    };
    all.iter().map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
