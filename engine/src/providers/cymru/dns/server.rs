//! Chooses the DNS server.

use crate::net::{Cancel, Failure, resolve};
use std::fs;
use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 53;

/// Returns the addresses of the DNS server that the settings name. If the settings name no server, uses the first
/// server in the configuration of the system.
pub(super) fn resolve_server(server: Option<&str>, cancel: &Cancel) -> Result<Vec<SocketAddr>, Failure> {
    match server {
        Some(server) => {
            let (host, port) = split(server)
                .ok_or_else(|| Failure::Resolve(format!("{server:.100} names no DNS server")))?;
            resolve(host, port, cancel)
        }
        None => {
            let configuration = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            resolve(nameserver(&configuration), PORT, cancel)
        }
    }
}

/// Splits `host:port`, `[v6]:port`, or a host alone: `192.0.2.1:5353`, `[2001:db8::1]:5353`, `2001:db8::1`,
/// `resolver.example`.
fn split(server: &str) -> Option<(&str, u16)> {
    let server = server.trim_ascii();
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, None),
            (host, port) => (host, Some(port.strip_prefix(':')?)),
        },
        None if server.parse::<IpAddr>().is_ok() => (server, None),
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let port = match port {
        None => PORT,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        Some(_) => return None,
    };
    (!host.is_empty() && port > 0).then_some((host, port))
}

/// Returns the first DNS server in the text of a resolv.conf file. If the text names no server, returns the loopback
/// address, as resolver(5) says.
fn nameserver<'a>(configuration: &'a str) -> &'a str {
    let server = |line: &'a str| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())
    };
    configuration.lines().find_map(server).unwrap_or("127.0.0.1")
}

#[cfg(any(test, fuzzing))]
pub(super) mod invariants {
    /// If the standard library can parse the text, checks that this module returns the same host and port. Also checks
    /// that a host is never empty and that a port is never 0.
    pub(in super::super) fn names_are_read(text: &str) {
        let named = super::split(text);
        if let Ok(socket) = text.trim_ascii().parse::<std::net::SocketAddr>()
            && socket.port() > 0
            && !text.contains('%')
        {
            let (host, port) = named.expect("must parse an address with a port");
            assert_eq!((host.parse(), port), (Ok(socket.ip()), socket.port()), "{text}");
        }
        if let Some((host, port)) = named {
            assert!(!host.is_empty() && port > 0 && text.contains(host));
        }
        let nameserver = super::nameserver(text);
        assert!(!nameserver.is_empty() && !nameserver.contains(|char: char| char.is_ascii_whitespace()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_or_without_a_port() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", 53),
            (" 192.0.2.1:5353 ", "192.0.2.1", 5353),
            ("resolver.example", "resolver.example", 53),
            ("resolver.example:5353", "resolver.example", 5353),
            ("2001:db8::1", "2001:db8::1", 53),
            ("[2001:db8::1]", "2001:db8::1", 53),
            ("[2001:db8::1]:5353", "2001:db8::1", 5353),
        ] {
            assert_eq!(split(text), Some((host, port)), "{text}");
        }
        for text in
            ["", ":53", "[]:53", "[::1", "[::1]53", "[::1]:", "a:b", "a:", "a:+1", "a:0", "a:65536", "a:1:2"]
        {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn first_nameserver_of_the_system_is_taken() {
        let configuration =
            "# nameserver 1.1.1.1\nsearch example\n nameserver\t2001:db8::1  \nnameserver 9.9.9.9\n";
        assert_eq!(nameserver(configuration), "2001:db8::1");
        for none in ["", "nameserver", "nameservers 1.1.1.1\n", ";nameserver 1.1.1.1"] {
            assert_eq!(nameserver(none), "127.0.0.1", "{none}");
        }
    }
}
