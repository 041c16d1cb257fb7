//! Kinds of networks. An answer about an address names a network. The kind of this network determines how long the answer may be
//! used.
//!
//! An address of a cloud or of a VPN service often moves to another network or country. An address of an internet provider stays in
//! its network and country for months.

/// A kind of network. For each kind, a setting has a percentage. The lifetimes of answers are multiplied by this percentage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkKind {
    Vpn,
    Hosting,
    Isp,
}

impl NetworkKind {
    pub const ALL: [NetworkKind; 3] = [NetworkKind::Vpn, NetworkKind::Hosting, NetworkKind::Isp];

    pub fn name(self) -> &'static str {
        match self {
            NetworkKind::Vpn => "vpn",
            NetworkKind::Hosting => "hosting",
            NetworkKind::Isp => "isp",
        }
    }

    /// Returns the kind with this name.
    pub fn named(name: &str) -> Option<NetworkKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Returns `percent` percent of a lifetime. The lifetime is in seconds. The result is at least 1 and at most `i32::MAX`.
pub fn scaled(seconds: i32, percent: i32) -> i32 {
    let scaled = i64::from(seconds) * i64::from(percent) / 100;
    i32::try_from(scaled.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name() {
        for kind in NetworkKind::ALL {
            assert_eq!(NetworkKind::named(kind.name()), Some(kind));
        }
        for name in ["", "VPN", "education", "isp "] {
            assert_eq!(NetworkKind::named(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_lifetime_is_scaled_within_its_bounds() {
        const DAY: i32 = 86_400;
        for (seconds, percent, expected) in [
            (90 * DAY, 100, 90 * DAY),
            (90 * DAY, 10, 9 * DAY),
            (90 * DAY, 200, 180 * DAY),
            (60, 1, 1),
            (0, 100, 1),
            (i32::MAX, 100, i32::MAX),
            (i32::MAX, 1000, i32::MAX),
        ] {
            assert_eq!(scaled(seconds, percent), expected, "{percent} % of {seconds}");
        }
    }
}
