//! HTTP/1.1 as bytes: the head of a request, and the head of an answer.
//!
//! ```text
//! GET /v3/community/8.8.8.8 HTTP/1.1        HTTP/1.1 200 OK
//! host: 127.0.0.1:1234                      content-type: application/json
//! key: secret                               content-length: 182
//!
//! ```

/// Longer than any head of a client of these services.
pub const LONGEST_HEAD: usize = 65_536;

pub struct Head {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Number of bytes of the body, which the server skips.
    pub body: usize,
    /// True if another request may follow.
    pub keep_alive: bool,
}

impl Head {
    /// Parses the bytes up to the empty line. Returns `None` if they are not HTTP/1.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let (method, path, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !version.starts_with("HTTP/1.") {
            return None;
        }
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let value = |name: &str| value_of(&headers, name);
        let body = value("content-length").map_or(Some(0), |length| length.parse().ok())?;
        let keep_alive = version == "HTTP/1.1"
            && !value("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        Some(Head { method: method.to_owned(), path: path.to_owned(), body, keep_alive, headers })
    }
}

pub fn value_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Replaces the header of this name.
pub fn set(headers: &mut Vec<(String, String)>, name: &str, value: impl Into<String>) {
    headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    headers.push((name.to_owned(), value.into()));
}

/// Returns the position after the first empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

/// Returns the head of an answer, with the empty line.
pub fn head(status: u16, headers: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// Returns a part of a body that is sent in chunks. An empty part would end the body.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
