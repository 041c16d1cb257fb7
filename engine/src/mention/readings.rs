//! The readings of a text: the text itself, the text without the brackets that make addresses harmless, the text without line breaks
//! inside addresses, and the same after escapes are decoded.

/// How often escapes are decoded. A text may be escaped several times, for example a URL in a JSON text in a log line.
const LEVELS: usize = 4;

/// Returns true if one of the readings of a text fulfils the condition. Readings are in lower case.
pub fn any(text: &str, is_found: impl Fn(&[u8]) -> bool) -> bool {
    let mut level = folded(text);
    for _ in 0..LEVELS {
        let is_in = |reading: &str| {
            is_found(reading.as_bytes()) || refanged(reading).is_some_and(|plain| is_found(plain.as_bytes()))
        };
        // A line break, with the blanks beside it, is one blank between bytes or numbers.
        let is_on_lines = || {
            let lines = level.split(LINE_BREAKS).map(|line| line.trim_matches(BLANKS));
            is_in(&lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
        };
        let is_on_one_line = || unwrapped(&level).is_some_and(|plain| is_in(&plain));
        let has_lines = level.contains(LINE_BREAKS);
        if !has_lines && is_in(&level) || has_lines && (is_on_lines() || is_on_one_line()) {
            return true;
        }
        let Some(next) = decoded(&level) else { return false };
        level = folded(&next);
    }
    false
}

/// Converts the text to lower case, converts wide digits and signs to ASCII, and removes invisible characters.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars()
        .filter(|letter| !matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'))
        .map(|letter| match letter {
            '\u{3002}' | '\u{ff61}' => '.',
            // The characters from U+FF01 on are the printable ASCII characters in wide form.
            '\u{ff01}'..='\u{ff5e}' => {
                char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter).to_ascii_lowercase()
            }
            _ => letter.to_ascii_lowercase(),
        })
        .collect()
}

/// Returns the text without line breaks inside IPv4 addresses, and without the blanks beside these line breaks. Returns `None` if the
/// text has none. The line break must be beside a dot. The lines must have exactly four numbers together, because lists of prefixes
/// also have lines that end with a dot.
fn unwrapped(text: &str) -> Option<String> {
    let (mut plain, mut rest, mut is_changed) = (String::new(), text, false);
    while let Some(at) = rest.find(LINE_BREAKS) {
        let (before, after) = (rest[..at].trim_end_matches(BLANKS), rest[at..].trim_start_matches(BLANKS));
        plain.push_str(before);
        let is_dot_at_break = plain.ends_with('.') != after.starts_with('.');
        if is_dot_at_break && last_numbers(&plain) + first_numbers(after) == 4 {
            is_changed = true;
        } else {
            plain.push(' ');
        }
        rest = after;
    }
    plain.push_str(rest);
    is_changed.then_some(plain)
}

const LINE_BREAKS: [char; 2] = ['\n', '\r'];

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Returns how many numbers with dots between them a text ends with, at most four.
fn last_numbers(text: &str) -> usize {
    let is_part = |letter: char| letter == '.' || letter.is_ascii_digit();
    numbers(text.trim_end_matches(is_part).len(), text)
}

/// Returns how many numbers with dots between them a text begins with, at most four.
fn first_numbers(text: &str) -> usize {
    let is_part = |letter: char| letter == '.' || letter.is_ascii_digit();
    let length = text.find(|letter| !is_part(letter)).unwrap_or(text.len());
    numbers(0, &text[..length])
}

fn numbers(from: usize, text: &str) -> usize {
    text[from..].split('.').filter(|number| !number.is_empty()).take(5).count()
}

/// Characters between the numbers of an address.
const SEPARATORS: &[u8] = b".:-_,";

/// Characters that people put around a separator, so that no program recognises the address.
const BRACKETS: &[u8] = b"[](){}<>\\";

/// Returns the text without brackets around separators. Returns `None` if the text has none.
fn refanged(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let can_begin =
        |byte: &u8| matches!(byte, b' ' | b'd') || BRACKETS.contains(byte) || SEPARATORS.contains(byte);
    // `copied` is the end of the part of the text that is in `plain`.
    let (mut plain, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(skipped) = bytes[at..].iter().position(can_begin) {
        let start = at + skipped;
        let (length, separators) = glue(bytes, start);
        at = start + length.max(1);
        if let Some(separators) = separators.filter(|separators| joins(bytes, start, at, separators)) {
            plain.push_str(&text[copied..start]);
            plain.push_str(&separators);
            copied = at;
        }
    }
    (copied > 0).then(|| plain + &text[copied..])
}

/// Returns true if separators can be inside an address: they are between digits or letters, or they are the two colons at an end of
/// an IPv6 address. Other brackets belong to the structure of a document, so their removal would give no new reading.
fn joins(bytes: &[u8], start: usize, end: usize, separators: &str) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let has_before = is_part(start.checked_sub(1).and_then(|before| bytes.get(before)));
    let has_after = is_part(bytes.get(end));
    has_before && has_after || (has_before || has_after) && separators == "::"
}

/// Returns the number of bytes of separators, brackets and blanks at a position. If there are brackets and only one kind of
/// separator, also returns the separators without the brackets. The word "dot" counts as a dot in brackets.
fn glue(bytes: &[u8], from: usize) -> (usize, Option<String>) {
    let (mut at, mut has_brackets, mut separators) = (from, false, String::new());
    while let Some(byte) = bytes.get(at) {
        if is_word_dot(bytes, at) {
            separators.push('.');
            has_brackets = true;
            at += 3;
            continue;
        }
        match byte {
            b' ' => {}
            byte if BRACKETS.contains(byte) => has_brackets = true,
            byte if SEPARATORS.contains(byte) => separators.push(char::from(*byte)),
            _ => break,
        }
        at += 1;
    }
    let is_uniform =
        !separators.is_empty() && separators.bytes().all(|byte| byte == separators.as_bytes()[0]);
    (at - from, (has_brackets && is_uniform).then_some(separators))
}

fn is_word_dot(bytes: &[u8], at: usize) -> bool {
    let is_letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
    bytes[at..].starts_with(b"dot")
        && !is_letter(at.checked_sub(1).and_then(|before| bytes.get(before)))
        && !is_letter(bytes.get(at + 3))
}

/// Returns the text after its escapes are decoded once. Returns `None` if the text has no escapes.
fn decoded(text: &str) -> Option<String> {
    if !text.contains(['%', '\\', '&']) {
        return None;
    }
    let (mut plain, mut rest, mut is_changed) = (String::with_capacity(text.len()), text, false);
    while let Some(letter) = rest.chars().next() {
        let escape = match letter {
            '%' => hex_escape(rest, "%", 2),
            '\\' => backslash(rest),
            '&' => entity(rest),
            _ => None,
        };
        let (decoded, length) = escape.unwrap_or((letter, letter.len_utf8()));
        is_changed |= escape.is_some();
        plain.push(decoded);
        rest = &rest[length..];
    }
    is_changed.then_some(plain)
}

/// Returns the character with this code if an address can contain it. Other escapes are left as they are, because they may stand for
/// bytes of an address.
fn printable(code: Option<u32>) -> Option<char> {
    code.and_then(char::from_u32)
        .filter(|letter| matches!(letter, ' '..='~' | '\u{3002}' | '\u{ff01}'..='\u{ff61}'))
}

/// Decodes an escape that consists of a prefix and this number of hexadecimal digits. Also returns the length of the escape.
fn hex_escape(text: &str, prefix: &str, digits: usize) -> Option<(char, usize)> {
    let code = text.strip_prefix(prefix)?.get(..digits)?;
    let is_code = code.bytes().all(|byte| byte.is_ascii_hexdigit());
    let letter = printable(u32::from_str_radix(code, 16).ok().filter(|_| is_code))?;
    Some((letter, prefix.len() + digits))
}

/// Decodes an escape that begins with a backslash, as in JSON, C and Rust.
fn backslash(text: &str) -> Option<(char, usize)> {
    let after = text.get(1..)?;
    if let Some(code) = after.strip_prefix("u{").and_then(|rest| Some(rest.split_once('}')?.0)) {
        let letter = printable(u32::from_str_radix(code, 16).ok())?;
        return Some((letter, code.len() + 4));
    }
    if after.starts_with(['n', 'r']) {
        return Some(('\n', 2));
    }
    if after.starts_with(['a', 'b', 'e', 'f', 't', 'v']) {
        return Some((' ', 2));
    }
    if let Some(letter) = after.chars().next().filter(|letter| matches!(letter, '\\' | '"' | '/')) {
        return Some((letter, 2));
    }
    let octal = || {
        let code = after.get(..3)?;
        let is_code = code.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        Some((printable(u32::from_str_radix(code, 8).ok().filter(|_| is_code))?, 4))
    };
    hex_escape(text, "\\u", 4).or_else(|| hex_escape(text, "\\x", 2)).or_else(octal)
}

/// Decodes an entity of HTML.
fn entity(text: &str) -> Option<(char, usize)> {
    let (name, _) = text.get(1..)?.split_once(';')?;
    let letter = match name {
        "period" => '.',
        "colon" => ':',
        "hyphen" | "dash" => '-',
        "lowbar" => '_',
        "amp" => '&',
        _ => {
            let code = name.strip_prefix('#')?;
            printable(match code.strip_prefix('x') {
                Some(code) => u32::from_str_radix(code, 16).ok(),
                None => code.parse().ok(),
            })?
        }
    };
    Some((letter, name.len() + 2))
}
