//! Chooses the format of a file from its content.
//!
//! A file that starts with `{` or `[` is JSON: one document, or a document for each line. In all other files, the first
//! line that is neither empty nor a comment shows the format. The reader of a format refuses lines of other formats.

use serde_json::Value;

use super::sink::{asn_number, has_host_bits, is_network};
use super::{Content, Error, Format, asns, clouds, documents, geofeed, lines, ndjson, shown, tor};

/// Reads a file. Returns an error for an unknown format, and for a file without any entry.
pub fn read(bytes: &[u8]) -> Result<Content, Error> {
    let text = text(bytes)?;
    let content = match text.trim_start().as_bytes().first() {
        Some(b'{' | b'[') => json(text)?,
        _ => {
            let content = by_first_line(text)?;
            check_last_line(text)?;
            content
        }
    };
    if content.entries.is_empty() && content.asns.is_empty() {
        let bogons = match content.counts.bogons {
            0 => "",
            _ => "; all entries are private or reserved",
        };
        return Err(empty(bogons));
    }
    Ok(content)
}

fn empty(reason: &str) -> Error {
    Error::of_file(format!(
        "list has no entries{reason}: its publisher has an outage, or the download failed; an empty list is not compiled"
    ))
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    let refused = |kind: &str| Err(Error::of_file(format!("file is {kind}, not a list")));
    match bytes {
        [0x1f, 0x8b, ..] => return refused("a gzip archive (unpack it first)"),
        [b'P', b'K', 3, 4, ..] => return refused("a zip archive (unpack it first)"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refused("UTF-16 text (convert it to UTF-8 first)"),
        _ => {}
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        Error::at(line, "text is not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().as_bytes() {
        [b'<', ..] => refused("a web page, maybe an error message"),
        _ => Ok(text),
    }
}

fn by_first_line(text: &str) -> Result<Content, Error> {
    let Some((number, line)) = lines::content_lines(text).next() else {
        return Err(empty(""));
    };
    let first_field = line.split(',').next().unwrap_or_default().trim().trim_matches('"');
    let has_fields = line.contains(',');
    if tor::is_record(line) {
        tor::read(text)
    } else if has_fields && is_network(first_field) {
        geofeed::read(text)
    } else if has_fields && (asn_number(first_field).is_some() || first_field.eq_ignore_ascii_case("asn")) {
        asns::read_csv(text)
    } else if asn_number(line).is_some() {
        asns::read_lines(text)
    } else if is_network(line) || lines::is_range(line) {
        lines::read(text)
    } else {
        Err(Error::at(number, format_args!("unknown format: \"{}\"", shown(line))))
    }
}

/// Refuses a last line without a line break if its network has bits after the prefix length. The file was probably cut
/// inside the line. A prefix that lost its last digits, such as a /128 that became a /12, is a far larger network.
fn check_last_line(text: &str) -> Result<(), Error> {
    let last = text.rsplit('\n').next().unwrap_or_default();
    let content = lines::without_comment(last);
    let network = content.split(',').next().unwrap_or_default().trim().trim_matches('"');
    if !has_host_bits(network) {
        return Ok(());
    }
    let number = text.matches('\n').count() as u64 + 1;
    Err(Error::at(
        number,
        format_args!(
            "last line has no line break, and its network has bits after the prefix length: \"{}\"; the file is probably cut off",
            shown(network)
        ),
    ))
}

fn json(text: &str) -> Result<Content, Error> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let invalid = |error: &serde_json::Error| match error.is_eof() {
        true => Error::at(error.line() as u64, "JSON ends too early: the download is incomplete"),
        false => Error::at(error.line() as u64, format_args!("invalid JSON at column {}", error.column())),
    };
    let document = match stream.next() {
        Some(Ok(document)) => document,
        Some(Err(error)) => return Err(invalid(&error)),
        None => return Err(empty("")),
    };
    let is_of_spamhaus = |value: &Value| value.get("cidr").is_some() || value.get("asn").is_some();
    if is_of_spamhaus(&document) || document.get("type").is_some_and(|kind| kind == "metadata") {
        return ndjson::read(text);
    }
    match stream.next() {
        Some(Ok(_)) => {
            return Err(Error::of_file("unknown format: several JSON documents without \"cidr\" or \"asn\""));
        }
        Some(Err(error)) => return Err(invalid(&error)),
        None => {}
    }

    match readers(&document).as_slice() {
        [(_, read)] => read(text, &document),
        [] if document.get("prefixes").is_some() => Err(empty(" under \"prefixes\"")),
        [] if document.as_array().is_some_and(Vec::is_empty) => Err(empty("")),
        [] => Err(Error::of_file("unknown format: JSON without the keys of a known list")),
        [(one, _), (other, _), ..] => {
            Err(Error::of_file(format!("ambiguous format: JSON has keys of {one} and of {other}")))
        }
    }
}

type JsonReader = fn(&str, &Value) -> Result<Content, Error>;

/// Returns the formats whose keys the document has.
fn readers(document: &Value) -> Vec<(Format, JsonReader)> {
    let has_array = |key: &str| document.get(key).is_some_and(Value::is_array);
    let prefixes_have = |key: &str| {
        let prefixes = document.get("prefixes").and_then(Value::as_array);
        prefixes.into_iter().flatten().any(|prefix| prefix.get(key).is_some())
    };
    let is_of_isc = document.as_array().is_some_and(|rows| rows.iter().any(|row| row.get("ipv4").is_some()));
    [
        (
            document.get("ipv6_prefixes").is_some() || prefixes_have("ip_prefix"),
            Format::Aws,
            clouds::aws as JsonReader,
        ),
        (prefixes_have("ipv4Prefix") || prefixes_have("ipv6Prefix"), Format::Google, clouds::google),
        (has_array("values"), Format::Azure, clouds::azure),
        (has_array("regions"), Format::Oracle, clouds::oracle),
        (has_array("list"), Format::Misp, documents::misp),
        (is_of_isc, Format::IscResearch, documents::isc_research),
    ]
    .into_iter()
    .filter_map(|(is_present, format, read)| is_present.then_some((format, read)))
    .collect()
}
