//! Reads and writes `inet` datums in their binary form. The `inet` type of pgrx converts values through text.
//!
//! An `inet` is a varlena (src/include/utils/inet.h). Its payload is the family byte, the prefix length, and 4 or 16 bytes of
//! the address in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::prefix::Prefix;
use pgrx::pg_sys;

use super::value::Typed;
use super::varlena;

/// PGSQL_AF_INET: AF_INET + 0.
const FAMILY_V4: u8 = 2;
/// The value of PGSQL_AF_INET6, which is AF_INET + 1. It does not depend on the platform's AF_INET6.
const FAMILY_V6: u8 = 3;

/// An `inet` value.
#[derive(Clone, Copy)]
pub struct Inet {
    pub address: Address,
    /// True if the prefix length denotes a single host.
    pub is_host: bool,
    /// True if the value has the form of the keys in the inventory: it is a single host, and the address is not IPv4-mapped.
    pub is_canonical: bool,
}

/// Reads an `inet` datum that is not null. Returns `None` if its bytes are not a valid `inet`.
///
/// # Safety
/// `datum` must be a valid pointer to a varlena.
pub(super) unsafe fn read(datum: pg_sys::Datum) -> Option<Inet> {
    // SAFETY: as the caller promises.
    match unsafe { payload(datum) } {
        [FAMILY_V4, bits, bytes @ ..] => {
            let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            let is_host = *bits == 32;
            Some(Inet {
                address: Address::new(IpAddr::V4(Ipv4Addr::from(bytes))),
                is_host,
                is_canonical: is_host,
            })
        }
        [FAMILY_V6, bits, bytes @ ..] => {
            let bytes: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            let (address, is_host) = (Address::new(IpAddr::V6(Ipv6Addr::from(bytes))), *bits == 128);
            Some(Inet { address, is_host, is_canonical: is_host && address.ip().is_ipv6() })
        }
        _ => None,
    }
}

/// Reads a `cidr` datum that is not null. Returns `None` if its bytes are not a valid `cidr`. In a valid `cidr`, all bits after
/// the prefix length are zero.
///
/// # Safety
/// `datum` must be a valid pointer to a varlena.
pub(super) unsafe fn read_prefix(datum: pg_sys::Datum) -> Option<Prefix> {
    // SAFETY: as for `read`.
    let payload = unsafe { payload(datum) };
    match payload {
        [FAMILY_V4, bits, bytes @ ..] => {
            let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            Prefix::new(Address::new(IpAddr::V4(Ipv4Addr::from(bytes))), *bits)
        }
        [FAMILY_V6, bits, bytes @ ..] => {
            let bytes: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            Prefix::parse(&format!("{}/{bits}", Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// Returns the bytes of an `inet` or `cidr`.
///
/// # Safety
/// `datum` must be a valid pointer to a varlena. The varlena must outlive the result.
unsafe fn payload<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller promises that the varlena is valid. An inet is too short to be compressed or stored out of line, so
    // the payload follows a header of one or four bytes.
    unsafe {
        let value = datum.cast_mut_ptr::<pg_sys::varlena>();
        std::slice::from_raw_parts(
            pgrx::varlena::vardata_any(value).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(value),
        )
    }
}

/// Writes a host `inet` into the current memory context.
pub(super) fn write(address: Address) -> pg_sys::Datum {
    match address.ip() {
        IpAddr::V4(ip) => allocate(FAMILY_V4, 32, &ip.octets()),
        IpAddr::V6(ip) => allocate(FAMILY_V6, 128, &ip.octets()),
    }
}

/// Returns the `inet` 0.0.0.0/0, which is not a host, in the current memory context.
pub fn everything() -> Typed<super::value::Inet> {
    Typed::made(allocate(FAMILY_V4, 0, &[0; 4]))
}

/// Writes a `cidr` into the current memory context. The type `cidr` has the same layout as `inet`.
pub(super) fn write_prefix(prefix: Prefix) -> pg_sys::Datum {
    match prefix.network().ip() {
        IpAddr::V4(ip) => allocate(FAMILY_V4, prefix.length(), &ip.octets()),
        IpAddr::V6(ip) => allocate(FAMILY_V6, prefix.length(), &ip.octets()),
    }
}

fn allocate(family: u8, bits: u8, bytes: &[u8]) -> pg_sys::Datum {
    varlena::write(&[&[family, bits], bytes])
}
