//! Maximum ages of lists. A list that is older than its maximum age is ignored.
//!
//! The grammar of the setting:
//! ```text
//! ages = age *("," age)
//! age  = [TYPE ":"] number unit       ; an age without a type applies to all other types
//! unit = "minute" | "hour" | "day" | "week", or their plurals
//! ```

use std::collections::BTreeMap;

use crate::export::settings::Refusal;
use crate::mmdb::types::is_type;

/// Tor exits change within hours. Other lists change slowly.
pub const DEFAULT_MAX_AGES: &str = "7 days, TOR: 1 day";

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// Shortest and longest maximum age in seconds.
const BOUNDS: std::ops::RangeInclusive<u64> = MINUTE..=3650 * DAY;

/// Maximum age, in seconds, of a list whose type is not in the setting. Used only if the setting has no age without a type.
const OTHERS: u64 = 7 * DAY;

/// How many seconds the publication time of a list may be in the future. If the time is further in the future, the time is wrong,
/// so the age of the list is unknown.
const CLOCKS_DIFFER: u64 = DAY;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MaxAges {
    others: u64,
    by_type: BTreeMap<String, u64>,
}

impl MaxAges {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = |reason| Refusal {
            reason,
            hint: "Use for example '7 days, TOR: 1 day'. An age without a type applies to all types that the setting does not name.",
        };
        let mut others = None;
        let mut by_type = BTreeMap::new();
        for item in text.split(',') {
            let (kind, age) =
                item.split_once(':').map_or((None, item), |(kind, age)| (Some(kind.trim()), age));
            let age = seconds(age).ok_or_else(|| {
                refused("Each age must be a number and a unit: minutes, hours, days or weeks.")
            })?;
            if !BOUNDS.contains(&age) {
                return Err(refused("An age is shorter than 1 minute or longer than 3650 days."));
            }
            let earlier = match kind {
                None => others.replace(age),
                Some(kind) if is_type(kind) => by_type.insert(kind.to_owned(), age),
                Some(_) => {
                    return Err(refused(
                        "A type must consist of capital letters, digits and underscores, and start with a letter.",
                    ));
                }
            };
            if earlier.is_some() {
                return Err(refused("The list contains two ages for the same type."));
            }
        }
        Ok(Self { others: others.unwrap_or(OTHERS), by_type })
    }

    /// Returns the maximum age of lists of a type, in seconds.
    pub fn of(&self, kind: &str) -> u64 {
        self.by_type.get(kind).copied().unwrap_or(self.others)
    }

    /// Returns true if a list with this type is recent enough to be used. `published` and `now` are in seconds since 1970.
    pub fn allows(&self, kind: &str, published: u64, now: u64) -> bool {
        published <= now.saturating_add(CLOCKS_DIFFER) && now.saturating_sub(published) <= self.of(kind)
    }
}

impl Default for MaxAges {
    fn default() -> Self {
        Self::parse(DEFAULT_MAX_AGES).unwrap_or(Self { others: OTHERS, by_type: BTreeMap::new() })
    }
}

fn seconds(age: &str) -> Option<u64> {
    let age = age.trim();
    let digits = age.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = age.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = match unit.strip_suffix('s').unwrap_or(&unit) {
        "minute" => MINUTE,
        "hour" => 60 * MINUTE,
        "day" => DAY,
        "week" => 7 * DAY,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_type_has_its_age_or_that_of_the_others() {
        for (text, tor, vpn) in [
            (DEFAULT_MAX_AGES, DAY, 7 * DAY),
            ("3 days", 3 * DAY, 3 * DAY),
            ("TOR: 90 minutes", 90 * MINUTE, 7 * DAY),
            (" vpn_: 1 day ", 0, 0),
            ("VPN:1week,TOR:2HOURS,30 Days", 2 * 60 * MINUTE, 7 * DAY),
        ] {
            match MaxAges::parse(text) {
                Ok(ages) => assert_eq!((ages.of("TOR"), ages.of("VPN")), (tor, vpn), "{text}"),
                Err(_) => assert_eq!(tor, 0, "{text}"),
            }
        }
        assert_eq!(MaxAges::default(), MaxAges::parse(DEFAULT_MAX_AGES).unwrap());
    }

    #[test]
    fn an_invalid_text_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("7", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("days", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("-1 days", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("1.5 days", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("7 days,", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            ("1 fortnight", "Each age must be a number and a unit: minutes, hours, days or weeks."),
            (
                "99999999999999999999 days",
                "Each age must be a number and a unit: minutes, hours, days or weeks.",
            ),
            (
                "18446744073709551615 weeks",
                "Each age must be a number and a unit: minutes, hours, days or weeks.",
            ),
            ("0 days", "An age is shorter than 1 minute or longer than 3650 days."),
            ("3651 days", "An age is shorter than 1 minute or longer than 3650 days."),
            (
                "tor: 1 day",
                "A type must consist of capital letters, digits and underscores, and start with a letter.",
            ),
            (
                ": 1 day",
                "A type must consist of capital letters, digits and underscores, and start with a letter.",
            ),
            ("7 days, 8 days", "The list contains two ages for the same type."),
            ("TOR: 7 days, TOR: 7 days", "The list contains two ages for the same type."),
        ] {
            assert_eq!(MaxAges::parse(text).map_err(|refusal| refusal.reason), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn a_list_counts_until_its_age_is_over() {
        let ages = MaxAges::default();
        let published = 1_700_000_000;
        for (kind, age) in [("TOR", DAY), ("VPN", 7 * DAY)] {
            assert!(ages.allows(kind, published, published));
            assert!(ages.allows(kind, published, published + age));
            assert!(!ages.allows(kind, published, published + age + 1));
            assert!(ages.allows(kind, published, published - DAY), "the clocks differ");
            assert!(!ages.allows(kind, published, published - DAY - 1), "the time of the list is wrong");
        }
        assert!(!ages.allows("VPN", u64::MAX, 0) && !ages.allows("VPN", 0, u64::MAX));
    }

    proptest! {
        #[test]
        fn any_text_is_accepted_or_refused(text in "[ A-Z_a-z0-9:,]{0,40}") {
            if let Ok(ages) = MaxAges::parse(&text) {
                prop_assert!(BOUNDS.contains(&ages.of("TOR")) && BOUNDS.contains(&ages.of("OTHER")));
            }
        }
    }
}
