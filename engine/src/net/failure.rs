//! Answers: why did an exchange with a provider not succeed?

use std::error::Error;
use std::fmt;

/// `Display` is for operators: one line, about 200 characters at most, no secret. The texts inside are whole sentences
/// that name host and port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The provider's name has no address.
    Resolve(String),
    /// Refused, unreachable.
    Connect(String),
    ConnectTimeout,
    /// Nothing came before the deadline.
    Silent,
    /// Something came, then a gap longer than allowed.
    Stalled,
    /// It kept sending, and the time for the whole exchange ran out.
    TooSlow,
    /// The answer ended early: in the middle of a row, or without any.
    Cut,
    /// It sent more than any answer to this question can have.
    TooLarge,
    /// HTTP: a status that brings no answer. The code with its name, and the provider's own words if there are any.
    Status {
        code: u16,
        text: String,
    },
    /// Something came that makes no sense as an answer: what is wrong with it.
    Malformed(String),
    Io(String),
    Cancelled,
}

impl Failure {
    /// No connection came about: another way to the same provider may be open.
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
            Self::ConnectTimeout => f.write_str("no connection within the time allowed"),
            Self::Silent => f.write_str("no answer within the time allowed"),
            Self::Stalled => f.write_str("the answer stopped coming"),
            Self::TooSlow => f.write_str("the answer took longer than the time allowed"),
            Self::Cut => f.write_str("the answer was cut short"),
            Self::TooLarge => f.write_str("the answer was larger than any answer can be"),
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
