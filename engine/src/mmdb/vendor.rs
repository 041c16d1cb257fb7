//! The vendor of a file.

use super::clean_name;

/// Each pair has the beginning of a type name, and the vendor whose files have such a type name.
const VENDORS: [(&str, &str); 7] = [
    ("GeoLite2-", "MaxMind"),
    ("GeoIP2-", "MaxMind"),
    ("GeoIP-", "MaxMind"),
    ("DBIP-", "DB-IP"),
    ("ipinfo ", "IPinfo"),
    ("mmdb-build ", "mmdb-build"),
    ("IP2LITE-", "IP2Location"),
];

/// Words in the type names of files of the project ip-location-db, for example `city ipv4`. The first word says what the file
/// contains. The second word is the address family.
const CONTENTS: [&str; 3] = ["asn", "city", "country"];
const FAMILIES: [&str; 3] = ["ipv4", "ipv6", "ipvAll"];

/// Returns the vendor of a file with this type name. If the vendor is unknown, returns the type name.
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
