//! Answers: whom can be asked about an address, and in which words?
//!
//! The rule: a provider is its request, its parser and its limits; settings come in as data. What all of them use
//! stands here.

pub mod cymru;

pub use crate::net::Failure;

use std::fmt;

/// Who handed out a network: one of the five regional internet registries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Registry {
    Arin,
    Ripe,
    Apnic,
    Lacnic,
    Afrinic,
}

impl Registry {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arin => "ARIN",
            Self::Ripe => "RIPE",
            Self::Apnic => "APNIC",
            Self::Lacnic => "LACNIC",
            Self::Afrinic => "AFRINIC",
        }
    }

    /// As providers write it, in any case; "other" and blank are none.
    pub fn parse(text: &str) -> Option<Self> {
        const SPELLINGS: [(&str, Registry); 7] = [
            ("arin", Registry::Arin),
            ("ripe", Registry::Ripe),
            ("ripencc", Registry::Ripe),
            ("ripe-ncc", Registry::Ripe),
            ("apnic", Registry::Apnic),
            ("lacnic", Registry::Lacnic),
            ("afrinic", Registry::Afrinic),
        ];
        let text = text.trim_ascii();
        SPELLINGS
            .iter()
            .find(|(spelling, _)| text.eq_ignore_ascii_case(spelling))
            .map(|(_, registry)| *registry)
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_every_spelling() {
        for (text, name) in [
            ("arin", "ARIN"),
            (" ARIN ", "ARIN"),
            ("ripencc", "RIPE"),
            ("RIPE", "RIPE"),
            ("ripe-ncc", "RIPE"),
            ("apnic", "APNIC"),
            ("Lacnic", "LACNIC"),
            ("afrinic", "AFRINIC"),
        ] {
            assert_eq!(Registry::parse(text).map(Registry::name), Some(name), "{text}");
        }
        for text in ["", "other", "NA", "arin2", "iana"] {
            assert_eq!(Registry::parse(text), None, "{text}");
        }
    }
}
