//! Finds addresses that are written as decimal, octal or hexadecimal numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Wanted, is_network};

/// A number in a text.
#[derive(Clone, Copy)]
struct Number<'a> {
    start: usize,
    end: usize,
    /// The digits without the prefix `0x`.
    digits: &'a [u8],
    is_hexadecimal: bool,
    /// The separator between the previous number and this number. `None` if other text is between them.
    separator: Option<u8>,
}

/// Returns true if a text mentions one of the addresses as numbers.
pub fn mention(wanted: &Wanted, text: &[u8]) -> bool {
    let (mut at, mut run): (usize, Vec<Number>) = (0, Vec::new());
    while let Some(number) = next(text, at) {
        at = number.end;
        if is_integer(wanted, text, &number) {
            return true;
        }
        let is_linked = run.last().is_some_and(|last: &Number| {
            number.separator.is_some() && (run.len() == 1 || last.separator == number.separator)
        });
        if !is_linked {
            // The last number of a run may be the first number of the next run, which has another separator.
            let kept = run.pop().filter(|_| number.separator.is_some());
            run.clear();
            run.extend(kept);
        }
        run.push(number);
        if is_address(wanted, text, &run) || is_short_form(wanted, text, &run) {
            return true;
        }
    }
    false
}

/// Returns the next number at or after a position.
fn next(text: &[u8], from: usize) -> Option<Number<'_>> {
    let start = from + text[from..].iter().position(u8::is_ascii_digit)?;
    let length =
        |at: usize, is_digit: fn(&u8) -> bool| text[at..].iter().take_while(|byte| is_digit(byte)).count();
    let separator = match &text[from..start] {
        [separator @ (b'.' | b'-' | b'_' | b',' | b' ' | b':')] if from > 0 => Some(*separator),
        b", " if from > 0 => Some(b','),
        _ => None,
    };
    let hexadecimal =
        if text[start..].starts_with(b"0x") { length(start + 2, u8::is_ascii_hexdigit) } else { 0 };
    let is_hexadecimal = hexadecimal > 0;
    let first = if is_hexadecimal { start + 2 } else { start };
    let end = if is_hexadecimal { first + hexadecimal } else { first + length(first, u8::is_ascii_digit) };
    Some(Number { start, end, digits: &text[first..end], is_hexadecimal, separator })
}

/// Returns true if the last numbers of a run are the four numbers of an IPv4 address, or the 16 bytes of an IPv6 address.
fn is_address(wanted: &Wanted, text: &[u8], run: &[Number]) -> bool {
    [4, 16].into_iter().any(|count| {
        let Some(numbers) = run.len().checked_sub(count).and_then(|skipped| run.get(skipped..)) else {
            return false;
        };
        [false, true].into_iter().any(|octal| is_window(wanted, text, numbers, octal))
    })
}

/// Returns true if the last numbers of a run are an IPv4 address in a short form of the C library: the last of three or two numbers
/// has all remaining bytes, as in `203.0.28935`.
///
/// A version such as `8.0.33` has the same form. So the last number must have more than one byte, or be hexadecimal. Two numbers are
/// only read if one of them is hexadecimal, because they are usually a decimal fraction.
fn is_short_form(wanted: &Wanted, text: &[u8], run: &[Number]) -> bool {
    [2, 3].into_iter().any(|count| {
        let Some(numbers) = run.len().checked_sub(count).map(|skipped| &run[skipped..]) else {
            return false;
        };
        let [first, .., last] = numbers else { return false };
        let is_longer = matches!(text[last.end..], [b'.', digit, ..] if digit.is_ascii_digit());
        let is_separated = first.separator != Some(b'.') && last.separator == Some(b'.');
        let has_hexadecimal = numbers.iter().any(|number| number.is_hexadecimal);
        if is_longer || !is_separated || count == 2 && !has_hexadecimal {
            return false;
        }
        [false, true].into_iter().any(|octal| {
            let value = |number: &Number| integer(number, octal);
            let Some(values) = numbers.iter().map(value).collect::<Option<Vec<u32>>>() else { return false };
            let Some((rest, begin)) = values.split_last() else { return false };
            let bits = 8 * (5 - count as u32);
            let is_plausible = *rest > 0xff || last.is_hexadecimal;
            if !is_plausible || rest >> bits != 0 || begin.iter().any(|byte| *byte > 0xff) {
                return false;
            }
            let begin = begin.iter().fold(0, |begin, byte| begin << 8 | byte);
            wanted.has(Ipv4Addr::from_bits(begin << bits | rest).into())
        })
    })
}

fn is_window(wanted: &Wanted, text: &[u8], numbers: &[Number], octal: bool) -> bool {
    let Some(last) = numbers.last() else { return false };
    if last.separator == Some(b',') && !is_whole_list(text, numbers) {
        return false;
    }
    let is_host_name = match last.separator {
        Some(b'.') => is_label(&text[last.end..]),
        Some(b'-' | b'_') => true,
        // Decimal numbers with these separators are times and columns of tables.
        Some(b' ' | b':') if !numbers.iter().all(|number| number.is_hexadecimal) => return false,
        _ => false,
    };
    let Some(mut bytes) = numbers.iter().map(|number| byte(number, octal)).collect::<Option<Vec<u8>>>()
    else {
        return false;
    };
    let ip = <[u8; 4]>::try_from(&*bytes).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    if wanted.has_bytes(&bytes) && !ip.is_ok_and(|ip| is_network(ip, &text[last.end..])) {
        return true;
    }
    bytes.reverse();
    is_host_name && wanted.has_bytes(&bytes)
}

/// Returns true if numbers with commas between them are a whole list, or if only the two bytes of a port follow, as in FTP. Four
/// numbers in a longer list are usually not an address.
fn is_whole_list(text: &[u8], numbers: &[Number]) -> bool {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return false };
    if text[..first.start].trim_ascii_end().ends_with(b",") {
        return false;
    }
    let mut after = &text[last.end..];
    if !after.starts_with(b",") {
        return true;
    }
    let is_port = (0..2).all(|_| {
        let digits = after.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
        let is_byte = after.starts_with(b",") && (1..=3).contains(&digits);
        after = after.get(1 + digits..).unwrap_or_default();
        is_byte
    });
    is_port && !after.starts_with(b",")
}

/// Returns true if a label of a host name follows, so that the numbers before it belong to a host name. Host names often have the
/// numbers of the address in reverse order, as in `7.113.0.203.in-addr.arpa`.
fn is_label(after: &[u8]) -> bool {
    matches!(after, [b'.' | b'-' | b'_', letter, ..] if letter.is_ascii_alphabetic())
}

/// Returns the value of a number with at most four digits, if it fits in a byte.
fn byte(number: &Number, octal: bool) -> Option<u8> {
    integer(number, octal).filter(|_| number.digits.len() <= 4)?.try_into().ok()
}

/// Returns the value of a number, if it fits in four bytes. Programs of the C library read a number that begins with 0 as octal.
fn integer(number: &Number, octal: bool) -> Option<u32> {
    let digits = std::str::from_utf8(number.digits).ok()?;
    let radix = match number.is_hexadecimal {
        true => 16,
        false if octal && digits.starts_with('0') => 8,
        false => 10,
    };
    u32::from_str_radix(digits, radix).ok()
}

/// Returns true if a number is the value of an address, or has three decimal digits for each byte of an IPv4 address.
fn is_integer(wanted: &Wanted, text: &[u8], number: &Number) -> bool {
    let before = &text[..number.start];
    let is_fraction = matches!(before, [.., digit, b'.'] if digit.is_ascii_digit());
    if number.is_hexadecimal || is_fraction || !(8..=39).contains(&number.digits.len()) {
        return false;
    }
    let Some(value) = std::str::from_utf8(number.digits).ok().and_then(|digits| digits.parse::<u128>().ok())
    else {
        return false;
    };
    match u32::try_from(value) {
        Ok(bits) if wanted.has(Ipv4Addr::from_bits(bits).into()) => return true,
        // The same 32 bits as a signed number.
        Ok(bits) if before.ends_with(b"-") && wanted.has(Ipv4Addr::from_bits(bits.wrapping_neg()).into()) => {
            return true;
        }
        Ok(_) => {}
        Err(_) if wanted.has(Ipv6Addr::from_bits(value).into()) => return true,
        Err(_) => {}
    }
    let octal = integer(number, true).filter(|_| number.digits.starts_with(b"0"));
    octal.is_some_and(|bits| wanted.has(Ipv4Addr::from_bits(bits).into())) || is_padded(wanted, number.digits)
}

fn is_padded(wanted: &Wanted, digits: &[u8]) -> bool {
    let byte = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u8>().ok();
    digits.len() == 12
        && digits
            .chunks(3)
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .is_some_and(|bytes| wanted.has_bytes(&bytes))
}
