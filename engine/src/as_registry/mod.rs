//! IANA's lists of AS numbers. The tables say to which regional internet registry IANA has given each number, and which numbers
//! are bogons.
//!
//! The tables are constants, so a search reads no file and sends no request. The tables have the content of IANA's lists on
//! 2026-06-01: <https://www.iana.org/assignments/as-numbers> and
//! <https://www.iana.org/assignments/iana-as-numbers-special-registry>. `engine/tests/iana/README.md` says how to update them.
//!
//! For each range, IANA records only the first regional registry. If the holder of a number has moved the number to another
//! regional registry, the tables still have the first one. So an answer of Team Cymru is more reliable than these tables.

mod table;

use crate::providers::Registry;
use table::{RANGES, SPECIAL_PURPOSE};

/// The AS number of the AS112 project. It is in the list of special-purpose numbers, but it is not a bogon, because servers
/// around the world announce it. The address blocks of the project are not bogons either, see [`crate::bogon`].
const AS112: u32 = 112;

/// Returns the regional registry to which IANA has given a number. Returns `None` if the number is reserved or not allocated.
pub fn registry(asn: u32) -> Option<Registry> {
    // The first range begins at 0. So for every number there is a range that begins at this number or before it.
    let after = RANGES.partition_point(|(first, _)| *first <= asn);
    RANGES.get(after.checked_sub(1)?)?.1
}

/// Returns true if a number is reserved for a special purpose, such as private use or documentation. No network on the public
/// internet has such a number. A number that IANA has not allocated yet is not a bogon, because IANA may allocate it later.
pub fn is_bogon(asn: u32) -> bool {
    let after = SPECIAL_PURPOSE.partition_point(|(first, _)| *first <= asn);
    let range = after.checked_sub(1).and_then(|row| SPECIAL_PURPOSE.get(row));
    asn != AS112 && range.is_some_and(|(_, last)| asn <= *last)
}
