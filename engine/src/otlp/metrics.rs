//! Encodes metric families as an OTLP request.
//!
//! A counter becomes a monotonic sum, and a histogram has explicit bounds. Both count from the same start time. A value
//! keeps the unit of its metric family, so milliseconds stay milliseconds. A metric family without samples is left out.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use prost::Message;

use super::{Request, Resource, scope, text};
use crate::metrics::{Family, Kind, Value};

/// Returns the values of the metrics at the time `now`. Counters and histograms count from the time `since`. Both times
/// are nanoseconds since 1970.
pub fn metrics(families: &[Family], resource: &Resource, since: u64, now: u64) -> Request {
    // If the clock was set back, `since` may be later than `now`. An interval must not end before it begins, so the
    // earlier time becomes the start.
    let at = Interval { since: since.min(now), now };
    let shown = || families.iter().filter(|family| !family.samples.is_empty());
    let scope_metrics = ScopeMetrics {
        scope: Some(scope()),
        metrics: shown().map(|family| at.metric(family)).collect(),
        schema_url: String::new(),
    };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.encoded()),
            scope_metrics: vec![scope_metrics],
            schema_url: String::new(),
        }],
    };
    let items = shown().map(|family| family.samples.len() as u64).sum();
    Request { body: request.encode_to_vec(), items }
}

#[derive(Clone, Copy)]
struct Interval {
    since: u64,
    now: u64,
}

impl Interval {
    fn metric(self, family: &Family) -> Metric {
        let declared = family.declared;
        let temporality = AggregationTemporality::Cumulative as i32;
        let data = match declared.kind {
            Kind::Counter => Data::Sum(Sum {
                data_points: self.numbers(family),
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            Kind::Gauge => Data::Gauge(Gauge { data_points: self.numbers(family) }),
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: self.histograms(family),
                aggregation_temporality: temporality,
            }),
        };
        Metric {
            name: declared.name.to_owned(),
            description: declared.help.to_owned(),
            unit: declared.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        }
    }

    fn numbers(self, family: &Family) -> Vec<NumberDataPoint> {
        let is_counter = family.declared.kind == Kind::Counter;
        let point = |sample: &crate::metrics::Sample| {
            let Value::Number(value) = sample.value else { return None };
            Some(NumberDataPoint {
                attributes: family.labels(sample).map(|(name, value)| text(name, value)).collect(),
                start_time_unix_nano: if is_counter { self.since } else { 0 },
                time_unix_nano: self.now,
                // All values of a metric must have the same type. Counters are whole numbers, so they are sent as
                // integers.
                value: Some(if is_counter { Number::AsInt(value as i64) } else { Number::AsDouble(value) }),
                ..NumberDataPoint::default()
            })
        };
        family.samples.iter().filter_map(point).collect()
    }

    fn histograms(self, family: &Family) -> Vec<HistogramDataPoint> {
        let point = |sample: &crate::metrics::Sample| {
            let Value::Histogram(histogram) = &sample.value else { return None };
            Some(HistogramDataPoint {
                attributes: family.labels(sample).map(|(name, value)| text(name, value)).collect(),
                start_time_unix_nano: self.since,
                time_unix_nano: self.now,
                count: histogram.count(),
                sum: Some(histogram.sum),
                bucket_counts: histogram.counts.clone(),
                explicit_bounds: histogram.bounds.to_vec(),
                ..HistogramDataPoint::default()
            })
        };
        family.samples.iter().filter_map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{self, declarations as declared};

    #[test]
    fn what_is_written_is_read_again() {
        let mut durations = Family::of(&declared::OPERATION_DURATION);
        let mut counts = vec![0; declared::OPERATION_MS.len() + 1];
        (counts[2], counts[16]) = (3, 1);
        let histogram =
            metrics::Histogram { bounds: declared::OPERATION_MS, counts: counts.clone(), sum: 1200.06 };
        durations.add(["create"], Value::Histogram(histogram));
        let families = [
            Family::of(&declared::RECORDS_CREATED)
                .with(["maxmind", "US", "unknown"], 3.0)
                .with(["cymru", "CN", "APNIC"], 9e15),
            Family::of(&declared::TOTAL_COUNT).with(["cowrie"], 12.0),
            Family::of(&declared::MMDB_LOADED),
            durations,
        ];
        let resource = Resource { instance: "7423".into() };
        let request = metrics(&families, &resource, 1_000, 5_000);
        assert_eq!(request.items, 4);
        let read = ExportMetricsServiceRequest::decode(&request.body[..]).unwrap();
        let [of_resource] = &read.resource_metrics[..] else { panic!("{read:?}") };
        let attributes = &of_resource.resource.as_ref().unwrap().attributes;
        assert_eq!(
            *attributes,
            [
                text("service.name", "cowrie_enrich"),
                text("service.version", env!("CARGO_PKG_VERSION")),
                text("service.instance.id", "7423"),
                text("db.system.name", "postgresql"),
            ]
        );
        let metrics = &of_resource.scope_metrics[0].metrics;
        let names: Vec<_> =
            metrics.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
        assert_eq!(
            names,
            [
                ("asn_inventory.records_created", "{network}"),
                ("asn_inventory.total_count", "{network}"),
                ("asn_inventory.operation_duration_ms", "ms"),
            ]
        );
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = &sum.data_points[1];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_000, 5_000));
        assert_eq!(point.value, Some(Number::AsInt(9_000_000_000_000_000)));
        assert_eq!(point.attributes, [text("source", "cymru"), text("country", "CN"), text("rir", "APNIC")]);
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert_eq!(gauge.data_points[0].value, Some(Number::AsDouble(12.0)));
        assert_eq!(gauge.data_points[0].start_time_unix_nano, 0);
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(1200.06)));
        assert_eq!(point.bucket_counts, counts);
        assert_eq!(point.explicit_bounds, declared::OPERATION_MS);
        assert_eq!(point.start_time_unix_nano, 1_000);
    }

    #[test]
    fn an_interval_never_ends_before_it_begins() {
        let families = [Family::of(&declared::ERRORS).with([], 1.0)];
        let request = metrics(&families, &Resource { instance: String::new() }, 9_000, 5_000);
        let read = ExportMetricsServiceRequest::decode(&request.body[..]).unwrap();
        let metric = &read.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        assert_eq!(sum.data_points[0].start_time_unix_nano, 5_000);
    }
}
