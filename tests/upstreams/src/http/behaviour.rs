//! The ways in which an HTTP service can answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::record::HttpRequest;

/// How one request is answered.
#[derive(Clone, Debug)]
pub struct HttpBehaviour {
    /// Time between the request and the first byte of the answer.
    pub delay: Duration,
    /// Compresses the body, even if the client did not say that it accepts gzip.
    pub gzip: bool,
    /// Sends the body in chunks instead of with its length.
    pub chunked: bool,
    /// Headers of each answer. They replace other headers of the same name.
    pub headers: Vec<(String, String)>,
    /// Closes the connection after the answer, and says so in the head.
    pub close: bool,
    pub fault: Option<HttpFault>,
}

#[derive(Clone)]
pub enum HttpFault {
    /// Sends this status, with the service's JSON message for it.
    Status { code: u16, retry_after: Option<String> },
    /// Waits until `Http::behave` or `Http::behave_for` is called, and then answers as that call says.
    Held,
    /// Reads the request, and sends nothing until the client leaves.
    Silent,
    /// Sends the head of the right answer, and then nothing until the client leaves.
    Hang,
    /// Sends the right answer, head and body, one byte at a time.
    Drip { every: Duration },
    /// Sends half of the right body, and then closes the connection.
    CutBody,
    /// Sends status 200 and the content type of JSON, but a body that is not JSON.
    NotJson,
    /// Sends status 404 with an HTML page, as a proxy does.
    Html404,
    /// Sends the fields of the right answer with values of other types. Only the address stays as it is.
    WrongTypes,
    /// Sends the right answer, but with the neighbouring address in it.
    OtherAddress,
    /// Sends a JSON document of this number of bytes. The head gives its length, unless the answer is `chunked` or
    /// `close`.
    Huge { bytes: u64 },
    /// Sends the document of `Huge`, compressed about a thousandfold, without its length.
    GzipBomb { bytes: u64 },
    /// Status 302.
    Redirect { to: String },
    /// Sends status 403 with a message that repeats the values of all headers of the request. If a key is stored or
    /// logged, the client did not remove it from the message.
    Echo,
    /// Sends this number of arbitrary bytes instead of an answer, and then closes the connection.
    Garbage(usize),
    /// Status 200 and no body.
    EmptyBody,
    /// Sends the answer that this function returns for the request.
    Custom(Arc<CustomHttpAnswer>),
}

pub type CustomHttpAnswer = dyn Fn(&HttpRequest) -> CannedAnswer + Send + Sync;

/// An answer of [`HttpFault::Custom`]. If the headers `Content-Length` and `Connection` are missing, the server adds
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannedAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl HttpBehaviour {
    /// Answers at once, as the real service does.
    pub fn normal() -> HttpBehaviour {
        HttpBehaviour {
            delay: Duration::ZERO,
            gzip: false,
            chunked: false,
            headers: Vec::new(),
            close: false,
            fault: None,
        }
    }

    #[must_use]
    pub fn delayed(self, delay: Duration) -> HttpBehaviour {
        HttpBehaviour { delay, ..self }
    }

    #[must_use]
    pub fn gzipped(self) -> HttpBehaviour {
        HttpBehaviour { gzip: true, ..self }
    }

    #[must_use]
    pub fn chunked(self) -> HttpBehaviour {
        HttpBehaviour { chunked: true, ..self }
    }

    #[must_use]
    pub fn closing(self) -> HttpBehaviour {
        HttpBehaviour { close: true, ..self }
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> HttpBehaviour {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl From<HttpFault> for HttpBehaviour {
    fn from(fault: HttpFault) -> HttpBehaviour {
        HttpBehaviour { fault: Some(fault), ..HttpBehaviour::normal() }
    }
}

impl HttpFault {
    /// This status, without `Retry-After`.
    pub fn status(code: u16) -> HttpFault {
        HttpFault::Status { code, retry_after: None }
    }
}

/// By hand, because functions do not implement `Debug`.
impl fmt::Debug for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpFault::Status { code, retry_after } => {
                write!(f, "Status {code}, Retry-After {retry_after:?}")
            }
            HttpFault::Held => f.write_str("Held"),
            HttpFault::Silent => f.write_str("Silent"),
            HttpFault::Hang => f.write_str("Hang"),
            HttpFault::Drip { every } => write!(f, "Drip every {every:?}"),
            HttpFault::CutBody => f.write_str("CutBody"),
            HttpFault::NotJson => f.write_str("NotJson"),
            HttpFault::Html404 => f.write_str("Html404"),
            HttpFault::WrongTypes => f.write_str("WrongTypes"),
            HttpFault::OtherAddress => f.write_str("OtherAddress"),
            HttpFault::Huge { bytes } => write!(f, "Huge of {bytes} bytes"),
            HttpFault::GzipBomb { bytes } => write!(f, "GzipBomb of {bytes} bytes"),
            HttpFault::Redirect { to } => write!(f, "Redirect to {to}"),
            HttpFault::Echo => f.write_str("Echo"),
            HttpFault::Garbage(bytes) => write!(f, "Garbage of {bytes} bytes"),
            HttpFault::EmptyBody => f.write_str("EmptyBody"),
            HttpFault::Custom(_) => f.write_str("Custom"),
        }
    }
}
