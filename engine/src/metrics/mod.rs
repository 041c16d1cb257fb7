//! Answers: what is measured, and how is it handed on?
//!
//! The rule: whoever measures fills plain values of the families that `families` declares; whoever writes them out,
//! in whatever format, takes these and nothing else. Values are copied first and encoded afterwards, outside any lock.
//!
//! | file | answers for |
//! |---|---|
//! | `families` | every family there is, as data, and the buckets of the histograms |
//! | `prometheus` | the text format of Prometheus, and the same as rows |

pub mod families;
pub mod prometheus;

/// What is said once of all samples of a family.
#[derive(PartialEq, Eq, Debug)]
pub struct Declared {
    /// As OpenTelemetry spells names, the unit left to `unit`.
    pub name: &'static str,
    /// As Prometheus does: base units in the name, `_total` behind counters.
    pub prometheus: &'static str,
    pub kind: Kind,
    /// As UCUM writes it; of things that are counted their name, in braces.
    pub unit: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, or begins anew at zero.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A family with the values of one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    pub declared: &'static Declared,
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Values of the family's labels, in its order.
    pub labels: Vec<String>,
    pub value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// Observations by size.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: &'static [f64],
    /// One for each bound, not cumulated, and one for what is larger than all of them.
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Family {
    pub fn of(declared: &'static Declared) -> Family {
        Family { declared, samples: Vec::new() }
    }

    /// Adds a number; labels in the family's order.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [&str; N], value: f64) -> Family {
        self.add(labels, Value::Number(value));
        self
    }

    pub fn add<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        debug_assert_eq!(N, self.declared.labels.len(), "labels of {}", self.declared.name);
        self.samples.push(Sample { labels: labels.map(str::to_owned).to_vec(), value });
    }

    /// Names and values of a sample's labels.
    pub fn labels<'a>(&self, sample: &'a Sample) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.declared.labels.iter().copied().zip(sample.labels.iter().map(String::as_str))
    }
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The place of a value among bounds: the first that is not smaller; one past the last where all are.
pub fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

#[cfg(test)]
mod tests {
    use super::families::ALL;
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_ascend() {
        let bounds = [1.0, 5.0, 10.0];
        for (value, place) in
            [(0.0, 0), (1.0, 0), (1.1, 1), (5.0, 1), (10.0, 2), (10.1, 3), (f64::INFINITY, 3)]
        {
            assert_eq!(bucket(&bounds, value), place, "{value}");
        }
        for bounds in [
            families::OPERATION_MS,
            families::REQUEST_SECONDS,
            families::BATCH_ADDRESSES,
            families::TRIGGER_SECONDS,
        ] {
            assert!(bounds.is_sorted() && bounds.iter().all(|bound| *bound > 0.0), "{bounds:?}");
        }
    }

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        for (place, family) in ALL.iter().enumerate() {
            for other in &ALL[..place] {
                assert!(
                    family.name != other.name && family.prometheus != other.prometheus,
                    "{}",
                    family.name
                );
            }
            let is_plain = |name: &str, also: char| {
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == also as u8)
            };
            assert!(is_plain(family.name, '.') && is_plain(family.prometheus, '_'), "{}", family.name);
            assert_eq!(
                family.prometheus.ends_with("_total"),
                family.kind == Kind::Counter,
                "{}",
                family.name
            );
            let is_time = matches!(family.unit, "s" | "ms");
            assert_eq!(family.prometheus.ends_with("_seconds"), is_time, "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{}", family.name);
        }
    }
}
