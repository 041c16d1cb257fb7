//! The vendor of a file.

use super::clean_name;

/// Beginnings of the types of files, each with the vendor whose files have such a type.
const VENDORS: [(&str, &str); 7] = [
    ("GeoLite2-", "MaxMind"),
    ("GeoIP2-", "MaxMind"),
    ("GeoIP-", "MaxMind"),
    ("DBIP-", "DB-IP"),
    ("ipinfo ", "IPinfo"),
    ("mmdb-build ", "mmdb-build"),
    ("IP2LITE-", "IP2Location"),
];

/// Parts of the types that the project ip-location-db writes, such as `city ipv4`. The first word is the content, and
/// the second word is the family of the addresses.
const CONTENTS: [&str; 3] = ["asn", "city", "country"];
const FAMILIES: [&str; 3] = ["ipv4", "ipv6", "ipvAll"];

/// Returns the vendor of a file with this type. If the vendor is unknown, returns the type.
pub(super) fn vendor(database_type: &str) -> String {
    let known = VENDORS.iter().find(|(beginning, _)| database_type.starts_with(beginning));
    if let Some((_, vendor)) = known {
        return (*vendor).to_owned();
    }
    match database_type.split_once(' ') {
        Some((content, family)) if CONTENTS.contains(&content) && FAMILIES.contains(&family) => {
            "ip-location-db".to_owned()
        }
        _ => clean_name(database_type).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_file_names_its_vendor() {
        for (database_type, expected) in [
            ("GeoLite2-City", "MaxMind"),
            ("GeoIP2-Enterprise", "MaxMind"),
            ("DBIP-City-Lite (compat=City)", "DB-IP"),
            ("DBIP-ASN-Lite (compat=GeoLite2-ASN)", "DB-IP"),
            ("ipinfo lite.mmdb", "IPinfo"),
            ("city ipv4", "ip-location-db"),
            ("country ipvAll", "ip-location-db"),
            ("mmdb-build ASN", "mmdb-build"),
        ] {
            assert_eq!(vendor(database_type), expected, "{database_type}");
        }
    }

    #[test]
    fn a_file_of_an_unknown_vendor_is_named_by_its_type() {
        assert_eq!(vendor("city of the year"), "city of the year");
        assert_eq!(vendor("Geo-Open\n-Country"), "Geo-Open-Country");
    }
}
