//! Finds the bytes of addresses in hexadecimal text, and in text with escaped bytes.

use super::Wanted;

/// Returns true if a text contains the bytes of one of the addresses.
pub fn mention(wanted: &Wanted, text: &[u8]) -> bool {
    is_in_runs(wanted, text)
        || is_in_uuids(wanted, text)
        || is_in_pairs(wanted, text)
        || is_in_nibbles(wanted, text)
        || is_escaped(wanted, text)
}

/// Returns true if a run of hexadecimal digits contains the bytes of an address. A byte begins at an even position of the run. If the
/// number of digits is odd, a word may end before the bytes, so a byte can also begin at an odd position.
fn is_in_runs(wanted: &Wanted, text: &[u8]) -> bool {
    let mut end = 0;
    text.chunk_by(|a, b| a.is_ascii_hexdigit() == b.is_ascii_hexdigit()).any(|run| {
        let start = end;
        end += run.len();
        if run.len() < 8 || !run[0].is_ascii_hexdigit() {
            return false;
        }
        let may_be_v4 = !is_decimal_number(&text[..start], run, &text[end..]);
        let offsets = if run.len() % 2 == 0 { 0..1 } else { 0..2 };
        (may_be_v4 || run.len() == 32) && is_swapped(wanted, run)
            || offsets.into_iter().any(|offset| {
                let bytes = bytes(&run[offset..]);
                may_be_v4 && bytes.windows(4).any(|bytes| wanted.has_bytes(bytes))
                    || bytes.windows(16).any(|bytes| wanted.has_bytes(bytes))
            })
    })
}

/// Returns true if a run is probably a decimal number, such as a time, a date or a counter. A run that follows `0x` or `\x` is
/// hexadecimal, and so is a run before a port, as in `/proc/net/tcp`.
fn is_decimal_number(before: &[u8], run: &[u8], after: &[u8]) -> bool {
    let is_port = |text: &[u8]| matches!(text, [b':', port @ ..] if port.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() == 4);
    run.iter().all(u8::is_ascii_digit) && !before.ends_with(b"x") && !is_port(after)
}

/// Returns true if a run has the bytes of an address in the order of a little-endian machine, as in `/proc/net/tcp`.
fn is_swapped(wanted: &Wanted, run: &[u8]) -> bool {
    if !matches!(run.len(), 8 | 32) {
        return false;
    }
    let swapped: Vec<u8> = bytes(run).chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    wanted.has_bytes(&swapped)
}

/// Returns the bytes of an even number of hexadecimal digits. Ignores a last single digit.
fn bytes(digits: &[u8]) -> Vec<u8> {
    digits.chunks_exact(2).map(|pair| value(pair[0]) * 16 + value(pair[1])).collect()
}

fn value(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

/// Returns true if a text has the bytes of an IPv6 address in the form of a UUID, as in `20010db8-0000-0000-0000-000000000007`.
fn is_in_uuids(wanted: &Wanted, text: &[u8]) -> bool {
    const LENGTHS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    text.split(|byte| !is_part(byte)).filter(|run| run.len() >= 36).any(|run| {
        let words: Vec<&[u8]> = run.split(|byte| *byte == b'-').collect();
        words.windows(LENGTHS.len()).any(|words| {
            // Other hexadecimal digits may be before the first word, and after the last word.
            let first = &words[0][words[0].len().saturating_sub(LENGTHS[0])..];
            let last = &words[4][..words[4].len().min(LENGTHS[4])];
            let words = [first, words[1], words[2], words[3], last];
            words.map(<[u8]>::len) == LENGTHS && wanted.has_bytes(&bytes(&words.concat()))
        })
    })
}

/// Returns true if single pairs of hexadecimal digits are the bytes of an address, as in `cb:00:71:07`. Decimal digits that are
/// separated by blanks or dashes are usually a date or an address in decimal form.
fn is_in_pairs(wanted: &Wanted, text: &[u8]) -> bool {
    [b':', b' ', b'-'].into_iter().any(|separator| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == separator;
        text.split(|byte| !is_part(byte)).filter(|run| run.len() >= 11).any(|run| {
            let words: Vec<&[u8]> = run.split(|byte| *byte == separator).collect();
            let is_pair = |word: &&[u8]| word.len() == 2 && word.iter().all(u8::is_ascii_hexdigit);
            let mut lists = words.chunk_by(|a, b| is_pair(a) && is_pair(b)).filter(|pairs| pairs.len() >= 4);
            lists.any(|pairs| is_list(wanted, &pairs.concat(), separator == b':'))
        })
    })
}

fn is_list(wanted: &Wanted, digits: &[u8], may_be_decimal: bool) -> bool {
    [8, 32].into_iter().any(|length| {
        digits.windows(length).step_by(2).any(|digits| {
            let is_decimal = length == 8 && digits.iter().all(u8::is_ascii_digit);
            (may_be_decimal || !is_decimal) && wanted.has_bytes(&bytes(digits))
        })
    })
}

/// Returns true if a text has an IPv6 address as 32 single digits, in either order, as in the names of `ip6.arpa`.
fn is_in_nibbles(wanted: &Wanted, text: &[u8]) -> bool {
    text.split(|byte| !byte.is_ascii_hexdigit() && !matches!(byte, b'.' | b'-'))
        .filter(|run| run.len() >= 63)
        .any(|run| {
            let words: Vec<&[u8]> = run.split(|byte| matches!(byte, b'.' | b'-')).collect();
            let lists = words.chunk_by(|a, b| a.len() == 1 && b.len() == 1);
            lists.filter(|nibbles| nibbles.len() >= 32).any(|nibbles| {
                nibbles.concat().windows(32).any(|digits| {
                    let reversed: Vec<u8> = digits.iter().rev().copied().collect();
                    wanted.has_bytes(&bytes(digits)) || wanted.has_bytes(&bytes(&reversed))
                })
            })
        })
}

/// Returns true if a text has the bytes of an address, and at least one of them is escaped, as in `\xcb\x00q\x07`.
fn is_escaped(wanted: &Wanted, text: &[u8]) -> bool {
    if !text.contains(&b'\\') && !text.contains(&b'%') {
        return false;
    }
    let (mut all, mut at): (Vec<(u8, bool)>, usize) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        let escaped = escaped_byte(&text[at..]);
        let (byte, length) = escaped.unwrap_or((*byte, 1));
        all.push((byte, escaped.is_some()));
        at += length;
    }
    [4, 16].into_iter().any(|count| {
        all.windows(count).filter(|window| window.iter().any(|(_, is_escaped)| *is_escaped)).any(|window| {
            let bytes: Vec<u8> = window.iter().map(|(byte, _)| *byte).collect();
            wanted.has_bytes(&bytes)
        })
    })
}

/// Decodes an escaped byte. Also returns the length of the escape.
fn escaped_byte(text: &[u8]) -> Option<(u8, usize)> {
    let is_hexadecimal = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let simple = |letter: u8| {
        Some(match letter {
            b'a' => 7,
            b'b' => 8,
            b't' => 9,
            b'n' => 10,
            b'v' => 11,
            b'f' => 12,
            b'r' => 13,
            b'\\' | b'\'' | b'"' => letter,
            _ => return None,
        })
    };
    match text {
        [b'\\', b'x', a, b, ..] if is_hexadecimal(&[*a, *b]) => Some((value(*a) * 16 + value(*b), 4)),
        [b'%', a, b, ..] if is_hexadecimal(&[*a, *b]) => Some((value(*a) * 16 + value(*b), 3)),
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
            Some((value(*a) * 64 + value(*b) * 8 + value(*c), 4))
        }
        [b'\\', letter, ..] => simple(*letter).map(|byte| (byte, 2)),
        _ => None,
    }
}
