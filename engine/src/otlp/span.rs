//! Spans: what ran, for how long, and for which parent.
//!
//! A span has a fixed size and no pointers, because it passes between processes. One process writes a span into a ring
//! buffer (`crate::ring`). Another process reads the span from the ring buffer and exports it. If a text is too long,
//! it is cut.

use crate::random;

/// Size of a span in words.
pub const WORDS: usize = 32;

/// Sizes of texts, in words of 64 bits. `NAME` is the size of the name of a network, and of an outcome. `ERROR` is the
/// size of an error message.
const NAME: usize = 10;
const ERROR: usize = 12;

/// Nanoseconds since 1970.
pub type Nanoseconds = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub trace: u128,
    pub id: u64,
    /// Id of the parent span. If it is 0, this span has no parent and is the first span of its trace.
    pub parent: u64,
    pub began: Nanoseconds,
    pub ended: Nanoseconds,
    /// OID of the database.
    pub database: u32,
    pub details: SpanDetails,
    /// The error message. Empty if the span did not fail.
    pub error: Text<ERROR>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanDetails {
    /// A network was created or updated.
    Network(NetworkSpan),
    /// A batch of lookups that a worker sends to a provider. The parts of the batch have their own spans.
    Batch(BatchSpan),
    Connect,
    Query,
    Apply,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkSpan {
    pub number: u32,
    pub operation: Operation,
    pub name: Text<NAME>,
    /// Country code of two letters, or zeros if unknown.
    pub country: [u8; 2],
    /// Name of the registry. Empty if unknown.
    pub registry: Text<1>,
    /// The source of the data.
    pub source: Text<3>,
    /// Number of networks in the statement.
    pub together: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchSpan {
    /// Index in `providers::ALL`.
    pub provider: u8,
    pub lookups: u32,
    /// Number of answers.
    pub answers: u32,
    /// `completed`, or the kind of failure.
    pub outcome: Text<NAME>,
}

/// Text of at most eight bytes per word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text<const N: usize>([u64; N]);

impl<const N: usize> Text<N> {
    pub const EMPTY: Self = Self([0; N]);

    /// Stores the characters that fit. NUL ends a text.
    pub fn new(text: &str) -> Self {
        let text = text.split('\0').next().unwrap_or_default();
        let mut length = text.len().min(N * 8);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(text.as_bytes()[..length].chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        Self(words)
    }

    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    pub fn read(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Returns a new random trace id.
pub fn new_trace() -> u128 {
    u128::from(new_id()) << 64 | u128::from(new_id())
}

/// Returns a new random span id. The id is never 0, because 0 means "no span".
pub fn new_id() -> u64 {
    random::bits().max(1)
}

/// A span begins with eight words: trace id (2 words), span id, parent, begin, end, and kind (2 words). Then come the
/// registry (1 word), the name (`NAME` words), and the source (3 words) or the error (`ERROR` words).
const _: () = assert!(8 + 1 + NAME + ERROR <= WORDS);

impl Span {
    pub fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let (kind, detail, numbers, name) = match &self.details {
            SpanDetails::Network(network) => {
                let [a, b] = network.country;
                let operation = u64::from(network.operation == Operation::Update);
                let detail = operation | u64::from(a) << 8 | u64::from(b) << 16;
                words[8] = network.registry.0[0];
                (0, detail, [network.number, network.together], network.name)
            }
            SpanDetails::Batch(batch) => {
                (1, batch.provider.into(), [batch.lookups, batch.answers], batch.outcome)
            }
            SpanDetails::Connect => (2, 0, [0; 2], Text::EMPTY),
            SpanDetails::Query => (3, 0, [0; 2], Text::EMPTY),
            SpanDetails::Apply => (4, 0, [0; 2], Text::EMPTY),
        };
        words[0] = (self.trace >> 64) as u64;
        words[1] = self.trace as u64;
        words[2..6].copy_from_slice(&[self.id, self.parent, self.began, self.ended]);
        words[6] = kind | detail << 8 | u64::from(self.database) << 32;
        words[7] = u64::from(numbers[0]) | u64::from(numbers[1]) << 32;
        words[9..9 + NAME].copy_from_slice(&name.0);
        // In the span of a network, these words contain the source of the network. In every other span, they contain
        // the error. The span of a network needs no room for an error, because it exists only if the network was
        // stored.
        match &self.details {
            SpanDetails::Network(network) => words[9 + NAME..][..3].copy_from_slice(&network.source.0),
            _ => words[9 + NAME..][..ERROR].copy_from_slice(&self.error.0),
        }
        words
    }

    /// Returns `None` if the words are not a span.
    pub fn of(words: &[u64; WORDS]) -> Option<Span> {
        let (kind, detail) = (words[6] & 0xff, words[6] >> 8 & 0xff_ffff);
        let [first, second] = [words[7] as u32, (words[7] >> 32) as u32];
        let name = Text(std::array::from_fn(|word| words[9 + word]));
        let mut error = Text(std::array::from_fn(|word| words[9 + NAME + word]));
        let details = match kind {
            0 => {
                error = Text::EMPTY;
                SpanDetails::Network(NetworkSpan {
                    number: first,
                    operation: if detail & 1 == 0 { Operation::Create } else { Operation::Update },
                    name,
                    country: [(detail >> 8) as u8, (detail >> 16) as u8],
                    registry: Text([words[8]]),
                    source: Text(std::array::from_fn(|word| words[9 + NAME + word])),
                    together: second,
                })
            }
            1 => SpanDetails::Batch(BatchSpan {
                provider: detail as u8,
                lookups: first,
                answers: second,
                outcome: name,
            }),
            2 => SpanDetails::Connect,
            3 => SpanDetails::Query,
            4 => SpanDetails::Apply,
            _ => return None,
        };
        Some(Span {
            trace: u128::from(words[0]) << 64 | u128::from(words[1]),
            id: words[2],
            parent: words[3],
            began: words[4],
            ended: words[5],
            database: (words[6] >> 32) as u32,
            details,
            error,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn network() -> Span {
        Span {
            trace: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            id: 0x1112_1314_1516_1718,
            parent: 0,
            began: 1_700_000_000_000_000_000,
            ended: 1_700_000_000_000_250_000,
            database: 16_384,
            details: SpanDetails::Network(NetworkSpan {
                number: u32::MAX,
                operation: Operation::Update,
                name: Text::new("中国联通"),
                country: *b"CN",
                registry: Text::new("AFRINIC"),
                source: Text::new("cymru"),
                together: 7,
            }),
            error: Text::EMPTY,
        }
    }

    pub(crate) fn batch() -> Span {
        Span {
            details: SpanDetails::Batch(BatchSpan {
                provider: 0,
                lookups: 500,
                answers: 499,
                outcome: Text::new("timed_out"),
            }),
            error: Text::new("the answer was not complete within the timeout"),
            ..network()
        }
    }

    #[test]
    fn spans_pass_through_words() {
        let of = |details| Span { details, parent: 5, ..batch() };
        for span in
            [network(), batch(), of(SpanDetails::Connect), of(SpanDetails::Query), of(SpanDetails::Apply)]
        {
            assert_eq!(Span::of(&span.words()), Some(span));
        }
        let mut words = network().words();
        words[6] |= 0xff;
        assert_eq!(Span::of(&words), None);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (text, kept) in [
            ("", ""),
            ("ARIN", "ARIN"),
            ("12345678", "12345678"),
            ("123456789", "12345678"),
            ("1234567ü", "1234567"),
            ("中国联通", "中国"),
            ("a\0b", "a"),
        ] {
            assert_eq!(Text::<1>::new(text).read(), kept, "{text}");
            assert_eq!(Text::<1>::new(text).is_empty(), kept.is_empty());
        }
        assert_eq!(Text::<NAME>::new(&"x".repeat(5000)).read().len(), 80);
    }
}
