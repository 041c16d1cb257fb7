//! Reasons why an exchange with a provider failed.

use std::error::Error;
use std::fmt;

/// `Display` writes a text for operators: one line of at most 200 characters, without secrets. The texts in `Resolve`
/// and `Connect` are complete and name the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The provider's host name could not be resolved.
    Resolve(String),
    /// The connection was refused, or the host is unreachable.
    Connect(String),
    ConnectTimeout,
    /// No byte arrived before the deadline.
    Silent,
    /// The data stopped for longer than allowed.
    Stalled,
    /// The time for the whole exchange ended while the provider was still sending data.
    TooSlow,
    /// The response ended too early: in the middle of a row, or before the first row.
    Cut,
    /// The response was longer than any valid response to this request.
    TooLarge,
    /// The provider sent an HTTP status without an answer. Contains the code with its name. If the provider sent a
    /// message, the text also contains this message.
    Status {
        code: u16,
        text: String,
    },
    /// The response is invalid. Contains the reason.
    Malformed(String),
    Io(String),
    Cancelled,
}

impl Failure {
    /// Returns true if no connection to the provider was established. In this case, another transport to the same
    /// provider may work.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Connect(_) | Self::ConnectTimeout)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(text)
            | Self::Connect(text)
            | Self::Io(text)
            | Self::Malformed(text)
            | Self::Status { text, .. } => write!(f, "{text:.200}"),
            Self::ConnectTimeout => f.write_str("could not connect within the timeout"),
            Self::Silent => f.write_str("no answer within the timeout"),
            Self::Stalled => f.write_str("the answer stopped before its end"),
            Self::TooSlow => f.write_str("the answer was not complete within the timeout"),
            Self::Cut => f.write_str("the connection was closed before the end of the answer"),
            Self::TooLarge => f.write_str("the answer was larger than the maximum"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_short() {
        for failure in
            [Failure::Resolve("é".repeat(5000)), Failure::Connect("é".repeat(5000)), Failure::TooLarge]
        {
            let text = failure.to_string();
            assert!(!text.is_empty() && text.chars().count() <= 200);
        }
    }
}
