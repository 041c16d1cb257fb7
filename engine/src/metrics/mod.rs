//! Metric families and their encoders.
//!
//! Code that measures something stores plain values in the families that `declarations` declares. The encoders of all formats read
//! only these values. The values are copied first. They are encoded later, while no lock is held.
//!
//! | file | holds |
//! |---|---|
//! | `declarations` | the declarations of all families, and the bucket bounds of the histograms |
//! | `prometheus` | writes the text format of Prometheus; also returns the same samples as rows |

pub mod declarations;
pub mod prometheus;

/// The declaration of a family, which all its samples share.
#[derive(PartialEq, Eq, Debug)]
pub struct Declared {
    /// The OpenTelemetry name. The unit is in `unit`.
    pub name: &'static str,
    /// The name in Prometheus. It contains the base unit. The name of a counter ends with `_total`.
    pub prometheus: &'static str,
    pub kind: Kind,
    /// The unit in UCUM notation. If the metric counts things, the unit is the name of these things in braces.
    pub unit: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A value that only increases, or restarts at zero.
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

/// A family with its values at one time.
#[derive(Clone, PartialEq, Debug)]
pub struct Family {
    pub declared: &'static Declared,
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Values of the family's labels, in the order of the declaration.
    pub labels: Vec<String>,
    pub value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// A distribution of observations.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: &'static [f64],
    /// One count for each bucket bound, and one count for observations above all bounds. The counts are not cumulative: each
    /// observation is in one count only.
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Family {
    pub fn of(declared: &'static Declared) -> Family {
        Family { declared, samples: Vec::new() }
    }

    /// Adds a number. Labels are in the order of the declaration.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [&str; N], value: f64) -> Family {
        self.add(labels, Value::Number(value));
        self
    }

    pub fn add<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        debug_assert_eq!(N, self.declared.labels.len(), "labels of {}", self.declared.name);
        self.samples.push(Sample { labels: labels.map(str::to_owned).to_vec(), value });
    }

    /// Returns the names and values of a sample's labels.
    pub fn labels<'a>(&self, sample: &'a Sample) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.declared.labels.iter().copied().zip(sample.labels.iter().map(String::as_str))
    }
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Returns the index of the first bound that is at least as large as the value. If all bounds are smaller than the value, returns
/// the number of bounds.
pub fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

#[cfg(test)]
mod tests {
    use super::declarations::ALL;
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
            declarations::OPERATION_MS,
            declarations::REQUEST_SECONDS,
            declarations::BATCH_ADDRESSES,
            declarations::TRIGGER_SECONDS,
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
