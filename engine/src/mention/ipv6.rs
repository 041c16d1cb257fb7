//! Finds IPv6 addresses in text form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Wanted, is_network};

/// Maximum number of groups of an address. An empty group stands between the two colons of `::`. An address that begins or ends with
/// `::` has a second empty group.
const GROUPS: usize = 10;

/// Returns true if a text mentions one of the addresses. The groups of an address are separated by colons, or by other characters
/// in a host name.
pub fn mention(wanted: &Wanted, text: &[u8]) -> bool {
    [b':', b'-', b'_'].into_iter().any(|separator| is_separated(wanted, text, separator))
}

fn is_separated(wanted: &Wanted, text: &[u8], separator: u8) -> bool {
    let is_part = |byte: u8| byte == separator || byte.is_ascii_hexdigit();
    let mut at = 0;
    while let Some(skipped) = text[at..].iter().position(|byte| is_part(*byte)) {
        let start = at + skipped;
        let length = text[start..].iter().take_while(|byte| is_part(**byte)).count();
        at = start + length;
        if is_in_run(wanted, &text[start..at], &text[at..], separator) {
            return true;
        }
    }
    false
}

fn is_in_run(wanted: &Wanted, run: &[u8], after: &[u8], separator: u8) -> bool {
    if run.iter().filter(|byte| **byte == separator).count() < 2 {
        return false;
    }
    let Ok(run) = std::str::from_utf8(run) else { return false };
    let groups: Vec<&str> = run.split(char::from(separator)).collect();
    let found = |groups: &[&str], after: &[u8]| Run { groups, after }.mentions(wanted);
    if found(&groups, after) {
        return true;
    }
    // The last group may be the beginning of a word, as in `2001:db8::7:dst`.
    if after.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        let mut groups = groups.clone();
        groups.pop();
        groups.push("");
        if found(&groups, b"") {
            return true;
        }
    }
    // The last numbers may be an IPv4 address.
    let last = groups.last().copied().unwrap_or_default();
    let Some((ip, rest)) = dotted(last, after) else { return false };
    let bits = ip.to_bits();
    let (high, low) = (format!("{:x}", bits >> 16), format!("{:x}", bits & 0xffff));
    let mut groups = groups;
    groups.pop();
    groups.extend([&*high, &*low]);
    found(&groups, rest)
}

/// Parses the IPv4 address at the end of an IPv6 address. `last` is the first number. Also returns the text after the address.
fn dotted<'a>(last: &str, after: &'a [u8]) -> Option<(Ipv4Addr, &'a [u8])> {
    let length = after.iter().take_while(|byte| **byte == b'.' || byte.is_ascii_digit()).count();
    let rest = std::str::from_utf8(&after[..length]).ok()?.strip_prefix('.')?;
    let numbers: Vec<&str> = rest.split('.').take(3).collect();
    let ip = format!("{last}.{}", numbers.join(".")).parse().ok()?;
    Some((ip, &after[1 + numbers.join(".").len()..]))
}

/// Groups of hexadecimal digits that are separated by one character.
struct Run<'a> {
    groups: &'a [&'a str],
    after: &'a [u8],
}

impl Run<'_> {
    fn mentions(&self, wanted: &Wanted) -> bool {
        let count = self.groups.len();
        (0..count).filter(|start| self.can_begin(*start)).any(|start| {
            (start + 3..=count.min(start + GROUPS)).any(|end| {
                let parsed = parse(&self.groups[start..end]);
                parsed.is_some_and(|ip| wanted.has(ip) && self.can_end(end) && !self.is_network(ip, end))
            })
        })
    }

    /// Returns true if an address can begin at a group. Any text can be before the address, such as a word and a colon.
    fn can_begin(&self, start: usize) -> bool {
        let is_empty = |group: usize| self.groups.get(group).is_none_or(|group| group.is_empty());
        !is_empty(start) || is_empty(start + 1)
    }

    /// Returns true if an address can end before a group. If all groups together are one address, a part of them is only an address
    /// if the rest is a port.
    fn can_end(&self, end: usize) -> bool {
        // A single colon after the last group belongs to the text, as in `2001:db8::7:a: no route`.
        let all = match self.groups {
            [groups @ .., last, ""] if !last.is_empty() => &self.groups[..=groups.len()],
            all => all,
        };
        match all.get(end..).unwrap_or_default() {
            [] => true,
            // The address itself ends with a colon.
            [next, ..] if self.groups[end - 1].is_empty() => next.is_empty(),
            [port] if is_port(port) => true,
            [next, ..] if next.is_empty() || next.len() > 4 => true,
            _ => parse(all).is_none(),
        }
    }

    fn is_network(&self, ip: IpAddr, end: usize) -> bool {
        end == self.groups.len() && is_network(ip, self.after)
    }
}

fn parse(groups: &[&str]) -> Option<IpAddr> {
    let is_whole = groups.len() >= 8 || groups.contains(&"");
    if !is_whole || groups.len() > GROUPS || groups.iter().any(|group| group.len() > 4) {
        return None;
    }
    groups.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn is_port(group: &str) -> bool {
    group.bytes().all(|byte| byte.is_ascii_digit()) && !group.starts_with('0') && group.parse::<u16>().is_ok()
}
