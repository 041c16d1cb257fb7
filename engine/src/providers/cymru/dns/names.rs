//! DNS names under which Team Cymru publishes addresses and networks.
//!
//! ```text
//! 31.108.90.216.origin.asn.cymru.com.                     216.90.108.31
//! 8.6.0.0. … .8.f.4.0.1.0.0.2.origin6.asn.cymru.com.      2001:4f8:…:68, all 32 nibbles
//! AS23028.asn.cymru.com.
//! ```
//!
//! A name contains the bytes of the address in reverse order, as in reverse DNS. If a name contained the address in the
//! usual order, the service would return the network of another address. Each name ends with a dot. Otherwise a
//! resolver could append its search domains.

use crate::address::Address;
use std::fmt::Write;
use std::net::IpAddr;

/// Returns the name that lists the networks that announce an address.
pub fn origin_name(address: Address) -> String {
    let mut name = String::with_capacity(96);
    match address.ip() {
        IpAddr::V4(ip) => {
            for octet in ip.octets().iter().rev() {
                let _ = write!(name, "{octet}.");
            }
            name.push_str("origin.asn.cymru.com.");
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", octet & 0xf, octet >> 4);
            }
            name.push_str("origin6.asn.cymru.com.");
        }
    }
    name
}

/// Returns the name that contains the name of a network.
pub fn network_name(asn: u32) -> String {
    format!("AS{asn}.asn.cymru.com.")
}
