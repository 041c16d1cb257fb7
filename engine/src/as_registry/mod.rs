//! IANA's registries of AS numbers: which registry received a number, and which numbers are bogons.
//!
//! The tables are constants, so a lookup needs neither a file nor the network. They contain the registries as of
//! 2026-06-01: <https://www.iana.org/assignments/as-numbers> and
//! <https://www.iana.org/assignments/iana-as-numbers-special-registry>. `engine/tests/iana/README.md` says how to
//! update them.
//!
//! IANA records only the first registry of a range. If a holder has moved its number to another registry, the tables still name the
//! first registry. So an answer of Team Cymru is better than this registry.

mod table;

use crate::providers::Registry;
use table::{RANGES, SPECIAL_PURPOSE};

/// The AS112 project. Its number is in the registry of special-purpose numbers, but servers around the world announce
/// it. The address blocks of the project are not bogons either, see [`crate::bogon`].
const AS112: u32 = 112;

/// Returns the registry that received a number from IANA. Returns `None` if the number is reserved or not allocated.
pub fn registry(asn: u32) -> Option<Registry> {
    // The first range begins at 0, so one range begins at or before every number.
    let after = RANGES.partition_point(|(first, _)| *first <= asn);
    RANGES.get(after.checked_sub(1)?)?.1
}

/// Returns true if a number is reserved for a special purpose, such as private use or documentation. No network on the
/// public internet has such a number. Numbers that IANA has not allocated yet are not bogons, because the list of these
/// numbers changes.
pub fn is_bogon(asn: u32) -> bool {
    let after = SPECIAL_PURPOSE.partition_point(|(first, _)| *first <= asn);
    let range = after.checked_sub(1).and_then(|row| SPECIAL_PURPOSE.get(row));
    asn != AS112 && range.is_some_and(|(_, last)| asn <= *last)
}
