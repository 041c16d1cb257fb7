//! Tests that a list is read completely or refused, with the line of the fault.

use cowrie_enrich_tools::lists::{Format, read};
use proptest::prelude::*;

use super::invariants::holds;

fn error(file: &str) -> String {
    read(file.as_bytes()).map(|content| content.format).unwrap_err().to_string()
}

#[test]
fn the_format_is_recognised_from_the_content() {
    for (file, format) in [
        ("5.6.7.8\n", Format::Lines),
        ("\u{feff}# c\r\n\r\n  5.6.7.0/24 ; c\r\n", Format::Lines),
        ("5.6.7.0 - 5.6.7.9\n", Format::Lines),
        ("2a00::/32", Format::Lines),
        ("ExitNode A\nExitAddress 5.6.7.8 2026-09-10 23:17:02\n", Format::TorExits),
        ("5.6.7.0/24,US,US-NJ,Clifton,\n", Format::Geofeed),
        (r#"{"prefixes":[{"ip_prefix":"5.6.7.0/24"}]}"#, Format::Aws),
        (r#"{"prefixes":[{"ipv6Prefix":"2a00::/32"}]}"#, Format::Google),
        (
            r#"{"values":[{"name":"AzureCloud.eu","properties":{"addressPrefixes":["5.6.7.0/24"]}}]}"#,
            Format::Azure,
        ),
        (r#"{"regions":[{"region":"r","cidrs":[{"cidr":"5.6.7.0/24","tags":["OCI"]}]}]}"#, Format::Oracle),
        (r#"{"type":"cidr","list":["5.6.7.0/24","5.6.8.1"]}"#, Format::Misp),
        (r#"[{"ipv4":"5.6.7.8","type":"shodan"}]"#, Format::IscResearch),
        ("{\"cidr\":\"5.6.7.0/24\"}\n{\"type\":\"metadata\",\"records\":1}\n", Format::SpamhausNetworks),
        ("{\"asn\":15169}\n{\"type\":\"metadata\",\"records\":1}\n", Format::SpamhausAsns),
        ("# c\nAS15169 # Google\n", Format::AsnLines),
        ("15169\n", Format::AsnLines),
        ("AS1,\"Level 3 Parent, LLC\",Unknown,US\n", Format::AsnCsv),
        ("asn,handle,description,country-code\n1,LVLT-1,Level 3,US\n", Format::AsnCsv),
    ] {
        assert_eq!(read(file.as_bytes()).map(|content| content.format), Ok(format), "{file}");
    }
}

#[test]
fn other_files_are_named() {
    for (file, expected) in [
        (&b"\x1f\x8b\x08\0"[..], "file is a gzip archive (unpack it first), not a list"),
        (b"PK\x03\x04", "file is a zip archive (unpack it first), not a list"),
        (b"\xff\xfe5\0", "file is UTF-16 text (convert it to UTF-8 first), not a list"),
        (b" \n<!DOCTYPE html>", "file is a web page, maybe an error message, not a list"),
        (b"5.6.7.8\n5.6.7.\xff\n", "line 2: text is not UTF-8"),
    ] {
        assert_eq!(read(file).unwrap_err().to_string(), expected);
    }
}

#[test]
fn an_unknown_or_ambiguous_format_is_an_error() {
    for (file, expected) in [
        ("# c\nexample.com\n", "line 2: unknown format: \"example.com\""),
        ("// 5.6.7.8\n", "line 1: unknown format: \"// 5.6.7.8\""),
        ("network,country\n", "line 1: unknown format: \"network,country\""),
        ("{\"a\":1}", "unknown format: JSON without the keys of a known list"),
        ("{\"a\":1}\n{\"a\":2}", "unknown format: several JSON documents without \"cidr\" or \"asn\""),
        (
            r#"{"prefixes":[{"ip_prefix":"5.6.7.0/24"}],"regions":[]}"#,
            "ambiguous format: JSON has keys of AWS ip-ranges and of Oracle public_ip_ranges",
        ),
        (
            r#"{"prefixes":[{"ip_prefix":"5.6.7.0/24"},{"ipv4Prefix":"5.6.8.0/24"}]}"#,
            "ambiguous format: JSON has keys of AWS ip-ranges and of Google ip-ranges",
        ),
        (
            "{\"cidr\":\"5.6.7.0/24\"}\n{\"asn\":1}\n",
            "line 2: ambiguous format: file has both networks and ASNs",
        ),
    ] {
        assert_eq!(error(file), expected, "{file}");
    }
}

#[test]
fn a_line_of_another_format_is_an_error_with_its_number() {
    for (file, expected) in [
        ("5.6.7.8\n\nAS15169\n", "line 3: not an address, a prefix or a range: \"AS15169\""),
        ("5.6.7.8\n5.6.7.0/33\n", "line 2: not an address, a prefix or a range: \"5.6.7.0/33\""),
        ("5.6.7.8\n5.6.7\n", "line 2: not an address, a prefix or a range: \"5.6.7\""),
        ("5.6.7.8\n005.6.7.8\n", "line 2: not an address, a prefix or a range: \"005.6.7.8\""),
        ("5.6.7.8\n5.6.7.9 5.6.7.10\n", "line 2: not an address, a prefix or a range: \"5.6.7.9 5.6.7.10\""),
        (
            "5.6.7.9-5.6.7.8\n",
            "line 1: range does not go from a lower to a higher address: \"5.6.7.9-5.6.7.8\"",
        ),
        (
            "5.6.7.9-2a00::1\n",
            "line 1: range does not go from a lower to a higher address: \"5.6.7.9-2a00::1\"",
        ),
        ("5.6.7.9\nfe80::1%eth0\n", "line 2: not an address, a prefix or a range: \"fe80::1%eth0\""),
        ("AS1\n# c\n5.6.7.8\n", "line 3: not an ASN: \"5.6.7.8\""),
        ("AS1\nAS4294967296\n", "line 2: ASN is greater than 4294967295: \"AS4294967296\""),
        ("AS1,x\nname,y\n", "line 2: not an ASN: \"name\""),
        ("5.6.7.0/24,US\n5.6.8.0/24,USA\n", "line 2: not a geofeed, the second field is no country: \"USA\""),
        ("5.6.7.0/24,US\n\n5.6.8/24,US\n", "line 3: not an address, a prefix or a range: \"5.6.8/24\""),
        ("ExitNode A\nExitAddress 5.6.7.8\n", "line 2: invalid time: \"\""),
        (
            "ExitNode A\nExitAddress x 2026-09-10 23:17:02\n",
            "line 2: not an address, a prefix or a range: \"x\"",
        ),
        ("ExitNode A\n5.6.7.8\n", "line 2: not a line of Tor exit-addresses: \"5.6.7.8\""),
        (
            "{\"prefixes\":[\n{\"ip_prefix\":\"5.6.7.0/24\"},\n{\"ip_prefix\":\"5.6.7.0/240\"}]}",
            "line 3: not an address, a prefix or a range: \"5.6.7.0/240\"",
        ),
        (
            "{\"prefixes\":[{\"ip_prefix\":\"5.6.7.0/24\"},{}]}",
            "AWS ip-ranges: entry 2 of \"prefixes\": \"ip_prefix\" is missing",
        ),
        (
            "{\"prefixes\":[{\"ip_prefix\":\"5.6.7.0/24\"},\n",
            "line 2: JSON ends too early: the download is incomplete",
        ),
        ("{\"prefixes\":[}\n", "line 1: invalid JSON at column 14"),
        ("{\"cidr\":\"5.6.7.0/24\"}\n{\"cidr\":\n", "line 2: line is not valid JSON"),
        ("{\"cidr\":\"5.6.7.0/24\"}\n{\"sblid\":1}\n", "line 2: line has neither \"cidr\" nor \"asn\""),
    ] {
        assert_eq!(error(file), expected, "{file}");
    }
    let long = error(&format!("5.6.7.8\n{}\u{7}\n", "x".repeat(5_000)));
    assert!(long.len() < 200 && !long.contains('\u{7}'), "{long}");
}

/// The crate `csv` accepts such a quote, and makes one field of the lines after it.
#[test]
fn a_quote_that_is_not_closed_in_its_line_is_an_error_with_the_line_of_the_quote() {
    for (file, line) in [
        ("5.6.0.0/24,US,,\"Clifton\n5.6.1.0/24,US,,\n5.6.2.0/24,US,,\n", 1),
        ("5.6.0.0/24,US,,x\n5.6.1.0/24,US,,\"a\n5.6.2.0/24,US,,b\"\n5.6.3.0/24,US\n", 2),
        ("5.6.0.0/24,US,,x\r\n5.6.1.0/24,US,,\"a\r\n5.6.2.0/24,US,,b\"\r\n5.6.3.0/24,US\r\n", 2),
        ("5.6.0.0/24,US,,x\n\n# \"\n5.6.1.0/24,US,,\"a", 4),
        ("5.6.0.0/24,US,,x\n5.6.1.0/24,US,,\"\n", 2),
        ("asn,name\nAS1,\"Level 3\nAS2,x\nAS3,\"y\"\n", 2),
        ("AS1,\"Level \"\"3\n", 1),
        ("AS1,x\nAS2,\"y", 2),
    ] {
        let expected = format!("line {line}: quote of a field is not closed in the same line");
        assert_eq!(error(file), expected, "{file}");
    }
    for file in
        ["# \"\n5.6.0.0/24,US,,\"a\"\n5.6.1.0/24,US", "AS1,\"Level \"\"3\"\"\"", "AS1,5\" disk\nAS2,x\n"]
    {
        assert!(read(file.as_bytes()).is_ok(), "{file}");
    }
}

/// Otherwise a part of the list would be lost without an error.
#[test]
fn a_json_value_of_a_wrong_type_is_an_error_with_its_position() {
    let ip_prefix = r#"{"ip_prefix":"5.0.0.0/24"}"#;
    let ipv6 = r#"[{"ipv6_prefix":"2a00::/32"}]"#;
    let azure = |tag: &str| format!(r#"{{"values":[{{"name":"ActionGroup"}},{tag}]}}"#);
    let oracle = |region: &str| {
        format!(r#"{{"regions":[{{"region":"a","cidrs":[{{"cidr":"5.0.0.0/24"}}]}},{region}]}}"#)
    };
    for (file, expected) in [
        (
            format!(r#"{{"prefixes":{{}},"ipv6_prefixes":{ipv6}}}"#),
            r#"AWS ip-ranges: "prefixes" is not an array"#,
        ),
        (
            format!(r#"{{"prefixes":[{ip_prefix}],"ipv6_prefixes":{{"a":1}}}}"#),
            r#"AWS ip-ranges: "ipv6_prefixes" is not an array"#,
        ),
        (
            format!(r#"{{"prefixes":[{ip_prefix}],"ipv6_prefixes":null}}"#),
            r#"AWS ip-ranges: "ipv6_prefixes" is not an array"#,
        ),
        (
            format!(r#"{{"prefixes":[{ip_prefix},{{"ip_prefix":5}}]}}"#),
            r#"AWS ip-ranges: entry 2 of "prefixes": "ip_prefix" is not a text"#,
        ),
        (
            r#"{"prefixes":[{"ip_prefix":"5.0.0.0/24","region":["a"]}]}"#.into(),
            r#"AWS ip-ranges: entry 1 of "prefixes": "region" is not a text"#,
        ),
        (
            format!(r#"{{"prefixes":[{ip_prefix},"5.0.1.0/24"]}}"#),
            r#"AWS ip-ranges: entry 2 of "prefixes": "ip_prefix" is missing"#,
        ),
        (
            r#"{"prefixes":[{"ipv4Prefix":"5.0.0.0/24","ipv6Prefix":["2a00::/32"]}]}"#.into(),
            r#"Google ip-ranges: entry 1 of "prefixes": "ipv6Prefix" is not a text"#,
        ),
        (
            azure(r#"{"name":"AzureCloud.a","properties":{"addressPrefixes":"5.0.0.0/24"}}"#),
            r#"Azure service tags: entry 2 of "values": "addressPrefixes" is not an array"#,
        ),
        (
            azure(r#"{"name":"AzureCloud.a","properties":{}}"#),
            r#"Azure service tags: entry 2 of "values": "addressPrefixes" is missing"#,
        ),
        (
            azure(r#"{"name":"AzureCloud.a","properties":{"addressPrefixes":["5.0.0.0/24",6]}}"#),
            r#"Azure service tags: entry 2 of "values": entry 2 of "addressPrefixes" is not a text"#,
        ),
        (azure(r#"{"name":1}"#), r#"Azure service tags: entry 2 of "values": "name" is not a text"#),
        (oracle(r#"{"region":"b"}"#), r#"Oracle public_ip_ranges: entry 2 of "regions": "cidrs" is missing"#),
        (
            oracle(r#"{"region":"b","cidrs":null}"#),
            r#"Oracle public_ip_ranges: entry 2 of "regions": "cidrs" is not an array"#,
        ),
        (
            oracle(r#"{"region":"b","cidrs":[{"cidr":"5.0.1.0/24"},{}]}"#),
            r#"Oracle public_ip_ranges: entry 2 of "regions": entry 2 of "cidrs": "cidr" is missing"#,
        ),
        (
            oracle(r#"{"region":"b","cidrs":[{"cidr":"5.0.1.0/24","tags":"OSN"}]}"#),
            r#"Oracle public_ip_ranges: entry 2 of "regions": entry 1 of "cidrs": "tags" is not an array"#,
        ),
        (
            r#"[{"ipv4":"5.0.0.1"},{"ipv4":"5.0.0.2","type":1}]"#.into(),
            r#"research scanners of the ISC: entry 2: "type" is not a text"#,
        ),
        (
            "{\"cidr\":\"5.6.7.0/24\"}\n{\"type\":\"metadata\",\"records\":1,\"timestamp\":\"1726000000\"}"
                .into(),
            "line 2: \"timestamp\" is not a number of seconds since 1970",
        ),
        (
            "{\"cidr\":\"5.6.7.0/24\"}\n{\"type\":\"metadata\",\"records\":1,\"timestamp\":-5}".into(),
            "line 2: \"timestamp\" is not a number of seconds since 1970",
        ),
        ("{\"cidr\":\"5.6.7.0/24\"}\n{\"cidr\":5}".into(), "line 2: \"cidr\" is not a text"),
        ("{\"asn\":1}\n{\"asn\":\"2\"}".into(), "line 2: \"asn\" is not a number"),
    ] {
        assert_eq!(error(&file), expected, "{file}");
    }
}

#[test]
fn an_optional_json_value_may_be_absent() {
    for (file, networks) in [
        (r#"{"ipv6_prefixes":[{"ipv6_prefix":"2a00::/32"}]}"#, 1),
        (r#"{"prefixes":[{"ip_prefix":"5.0.0.0/24","region":null}]}"#, 1),
        (r#"{"prefixes":[{"ipv4Prefix":"5.0.0.0/24","ipv6Prefix":"2a00::/32","scope":"a"}]}"#, 2),
        (
            r#"{"values":[{"name":"x"},{"name":"AzureCloud.a","properties":{"addressPrefixes":["5.0.0.0/24"]}}]}"#,
            1,
        ),
        (r#"{"regions":[{"cidrs":[{"cidr":"5.0.0.0/24"}]},{"cidrs":[]}]}"#, 1),
        (r#"[{"ipv4":"5.0.0.1","ipv6":"2a00::1"},{"ipv6":"2a00::2"}]"#, 3),
    ] {
        assert_eq!(read(file.as_bytes()).map(|content| content.entries.len()), Ok(networks), "{file}");
    }
}

/// The beginning of a prefix can be the prefix of a far larger network.
#[test]
fn a_prefix_that_was_cut_off_in_the_last_line_is_an_error() {
    for (file, line, network) in [
        ("2a01:4f8:1:1::/64\n2a01:4f8:1:2::4/12", 2, "2a01:4f8:1:2::4/12"),
        ("\n\n5.6.7.8/9", 3, "5.6.7.8/9"),
        ("5.6.7.8\r\n  5.6.7.9/30 ", 2, "5.6.7.9/30"),
        ("5.6.7.8/32,US\n5.6.7.9/30,US", 2, "5.6.7.9/30"),
    ] {
        let expected = format!(
            "line {line}: last line has no line break, and its network has bits after the prefix length: \"{network}\"; \
             the file is probably cut off"
        );
        assert_eq!(error(file), expected, "{file}");
    }
    for file in [
        "2a01:4f8:1:2::4/12\n",
        "2a01:4f8:1:2::4/12\n2a01:4f8:1:2::4/128",
        "5.6.7.9/30\n# c",
        "5.6.7.8/24\r\n5.6.7.8",
        "5.6.7.0/24,US",
        "5.6.7.0 - 5.6.7.9",
        "AS1\nAS2",
    ] {
        assert!(read(file.as_bytes()).is_ok(), "{file}");
    }
}

#[test]
fn a_network_of_a_large_part_of_the_internet_is_refused() {
    for network in [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0 - 255.255.255.255",
        "0.0.0.0/1",
        "4.0.0.0/5",
        "2000::/3",
        "2a00::/11",
        "::/1",
        "::ffff:0:0/96",
    ] {
        let message = error(&format!("5.6.7.8\n{network}\n"));
        assert!(
            message.starts_with("line 2: network covers too much of the internet"),
            "{network}: {message}"
        );
    }
    assert!(read(b"5.0.0.0/8\n2a00::/12\n4.0.0.0/6\n").is_ok());
}

/// Pieces of real files in any order, so that readers get far into their formats.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "5.6.7.8",
        "5.6.7.0/24",
        "2a00::/32",
        "10.0.0.0/8",
        "::ffff:5.6.7.8",
        "AS15169",
        "15169",
        "-",
        " - ",
        "/",
        ",",
        "US",
        "\"",
        "# c",
        ";",
        "\n",
        "\r\n",
        "\n",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ":",
        "\"prefixes\":[",
        "{\"ip_prefix\":\"5.6.7.0/24\"}",
        "{\"ipv4Prefix\":\"5.6.7.0/24\"}",
        "{\"values\":[{\"name\":\"AzureCloud.x\",\"properties\":{\"addressPrefixes\":[\"5.6.7.0/24\"]}}]}",
        "{\"regions\":[{\"cidrs\":[{\"cidr\":\"5.6.7.0/24\"}]}]}",
        "{\"type\":\"cidr\",\"list\":[\"5.6.7.8\"]}",
        "[{\"ipv4\":\"5.6.7.8\"}]",
        "{\"cidr\":\"5.6.7.0/24\"}\n",
        "{\"asn\":1}\n",
        "{\"type\":\"metadata\",\"records\":1}\n",
        "ExitNode A\n",
        "ExitAddress 5.6.7.8 2026-09-10 23:17:02\n",
        "asn,name\n",
        "\u{feff}",
        "é",
        "\0",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_lists_are_read_or_refused(text in pieces()) {
        holds(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes);
    }
}
