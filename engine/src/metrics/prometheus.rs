//! Encodes metrics for Prometheus.
//!
//! The crate `prometheus` writes the text format, version 0.0.4. This module also returns the same samples as rows. Example of the
//! text format:
//!
//! ```text
//! # HELP asn_inventory_records_created_total Networks added to asn_inventory, by source, country and registry
//! # TYPE asn_inventory_records_created_total counter
//! asn_inventory_records_created_total{source="maxmind",country="US",rir="unknown"} 3
//! # HELP asn_inventory_operation_duration_seconds Processor time of creating or updating one network
//! # TYPE asn_inventory_operation_duration_seconds histogram
//! asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.000005"} 0
//! asn_inventory_operation_duration_seconds_bucket{operation="create",le="+Inf"} 3
//! asn_inventory_operation_duration_seconds_sum{operation="create"} 0.0004
//! asn_inventory_operation_duration_seconds_count{operation="create"} 3
//! ```
//!
//! Prometheus expects base units, so values in milliseconds are converted to seconds. If a family has no samples, it is left out.

use ::prometheus::TextEncoder;
use ::prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use super::{Declared, Family, Histogram, Kind, Sample, Value};

/// One sample of the text format, as a row.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub name: String,
    pub kind: Kind,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// Returns all families in the text format.
pub fn text(families: &[Family]) -> Result<String, ::prometheus::Error> {
    let families: Vec<MetricFamily> =
        families.iter().filter(|family| !family.samples.is_empty()).map(encoded).collect();
    TextEncoder::new().encode_to_string(&families)
}

/// Returns the lines of the text format as rows.
pub fn rows(families: &[Family]) -> Vec<Row> {
    let mut rows = Vec::new();
    for family in families {
        for sample in &family.samples {
            let row = |suffix: &str, le: Option<String>, value: f64| Row {
                name: format!("{}{suffix}", family.declared.prometheus),
                kind: family.declared.kind,
                labels: family
                    .labels(sample)
                    .map(|(name, value)| (name, value.to_owned()))
                    .chain(le.map(|le| ("le", le)))
                    .collect(),
                value,
            };
            match &sample.value {
                Value::Number(number) => rows.push(row("", None, in_base_unit(family.declared, *number))),
                Value::Histogram(histogram) => {
                    let bounds = histogram.bounds.iter().map(|bound| bound_text(family.declared, *bound));
                    for (le, count) in bounds.chain(["+Inf".to_owned()]).zip(cumulated(histogram)) {
                        rows.push(row("_bucket", Some(le), count as f64));
                    }
                    rows.push(row("_sum", None, in_base_unit(family.declared, histogram.sum)));
                    rows.push(row("_count", None, histogram.count() as f64));
                }
            }
        }
    }
    rows
}

fn encoded(family: &Family) -> MetricFamily {
    let mut encoded = MetricFamily::default();
    encoded.set_name(family.declared.prometheus.to_owned());
    encoded.set_help(family.declared.help.to_owned());
    encoded.set_field_type(match family.declared.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    encoded.set_metric(family.samples.iter().map(|sample| metric(family, sample)).collect());
    encoded
}

fn metric(family: &Family, sample: &Sample) -> proto::Metric {
    let labels = family.labels(sample).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut metric = proto::Metric::default();
    metric.set_label(labels.collect());
    match &sample.value {
        Value::Number(number) => {
            let number = in_base_unit(family.declared, *number);
            if family.declared.kind == Kind::Counter {
                let mut counter = proto::Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
        }
        Value::Histogram(histogram) => {
            let bounds = histogram.bounds.iter().map(|bound| in_base_unit(family.declared, *bound));
            let buckets = bounds.zip(cumulated(histogram)).map(|(bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut encoded = proto::Histogram::default();
            encoded.set_bucket(buckets.collect());
            encoded.set_sample_count(histogram.count());
            encoded.set_sample_sum(in_base_unit(family.declared, histogram.sum));
            metric.set_histogram(encoded);
        }
    }
    metric
}

/// Returns the cumulative count for each bound, then the total.
fn cumulated(histogram: &Histogram) -> impl Iterator<Item = u64> {
    histogram.counts.iter().scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    })
}

/// Converts milliseconds to seconds. The conversion uses the decimal digits, because 0.005 * 0.001 is not exactly 0.000005 in
/// binary numbers. The difference would be visible in the label `le`.
fn in_base_unit(family: &Declared, value: f64) -> f64 {
    if family.unit != "ms" {
        return value;
    }
    format!("{value}e-3").parse().unwrap_or(value / 1000.0)
}

fn bound_text(family: &Declared, bound: f64) -> String {
    in_base_unit(family, bound).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::declarations::{self, ALL};
    use super::*;

    fn sample_families() -> Vec<Family> {
        let mut durations = Family::of(&declarations::OPERATION_DURATION);
        let mut counts = vec![0; declarations::OPERATION_MS.len() + 1];
        (counts[0], counts[4], counts[16]) = (2, 3, 1);
        let histogram = Histogram { bounds: declarations::OPERATION_MS, counts, sum: 2000.25 };
        durations.add(["create"], Value::Histogram(histogram));
        vec![
            Family::of(&declarations::RECORDS_CREATED)
                .with(["maxmind", "US", "unknown"], 3.0)
                .with(["cymru", "DE", "RIPE"], 12345678901.0),
            Family::of(&declarations::RECORDS_UPDATED),
            Family::of(&declarations::TOTAL_COUNT).with(["a \"b\" \\ c"], 7.0),
            durations,
            Family::of(&declarations::LAUNCHER_UP).with([], 1.0),
        ]
    }

    /// The expected output of a scrape.
    const TEXT: &str = r#"# HELP asn_inventory_records_created_total Networks added to asn_inventory, by source, country and registry
# TYPE asn_inventory_records_created_total counter
asn_inventory_records_created_total{source="maxmind",country="US",rir="unknown"} 3
asn_inventory_records_created_total{source="cymru",country="DE",rir="RIPE"} 12345678901
# HELP asn_inventory_size Rows in asn_inventory, one for each network
# TYPE asn_inventory_size gauge
asn_inventory_size{database="a \"b\" \\ c"} 7
# HELP asn_inventory_operation_duration_seconds Processor time to create or update one network, excluding waits for locks and disks
# TYPE asn_inventory_operation_duration_seconds histogram
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.000005"} 2
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.00001"} 2
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.000025"} 2
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.00005"} 2
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.0001"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.00025"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.0005"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.001"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.005"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.01"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.025"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.05"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.1"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.25"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="0.5"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="1"} 5
asn_inventory_operation_duration_seconds_bucket{operation="create",le="+Inf"} 6
asn_inventory_operation_duration_seconds_sum{operation="create"} 2.00025
asn_inventory_operation_duration_seconds_count{operation="create"} 6
# HELP enrich_launcher_up 1 while the launcher, which starts the workers, runs, else 0
# TYPE enrich_launcher_up gauge
enrich_launcher_up 1
"#;

    #[test]
    fn text_is_what_prometheus_reads() {
        assert_eq!(text(&sample_families()).expect("it can be written"), TEXT);
    }

    #[test]
    fn rows_are_the_lines_of_the_text() {
        let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
        let written = rows(&sample_families()).into_iter().map(|row| {
            let labels: Vec<String> = row
                .labels
                .iter()
                .map(|(name, value)| {
                    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
                })
                .collect();
            let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            format!("{}{braced} {}", row.name, row.value)
        });
        assert!(written.eq(lines));
    }

    #[test]
    fn every_family_can_be_written() {
        for declared in ALL {
            let value = match declared.kind {
                Kind::Histogram => {
                    Value::Histogram(Histogram { bounds: &[1.0], counts: vec![1, 2], sum: 5.0 })
                }
                Kind::Counter | Kind::Gauge => Value::Number(1.0),
            };
            let labels = declared.labels.iter().map(|name| format!("some {name}")).collect();
            let family = Family { declared, samples: vec![Sample { labels, value }] };
            let text = text(&[family]).expect("it can be written");
            assert!(text.contains(&format!("# HELP {} {}\n", declared.prometheus, declared.help)), "{text}");
            let kind = declared.kind.name();
            assert!(text.contains(&format!("# TYPE {} {kind}\n", declared.prometheus)), "{text}");
        }
    }
}
