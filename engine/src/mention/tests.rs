use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::Wanted;
use crate::address::Address;

fn wanted(addresses: &[&str]) -> Wanted {
    Wanted::new(addresses.iter().map(|address| Address::new(address.parse().unwrap())))
}

fn both() -> Wanted {
    wanted(&["203.0.113.7", "2001:db8::7"])
}

#[test]
fn every_form_of_an_ipv4_address_is_found() {
    for text in [
        "203.0.113.7",
        "from 203.0.113.7.",
        "203.0.113.7:22",
        "203.0.113.7.22",
        "203.0.113.7/32",
        "203.0.113.7/24",
        "1.2.3.4:203.0.113.7",
        "1.2.3.4-203.0.113.7",
        "1.2.3.4,203.0.113.7",
        "1.3.6.1.2.1.4.20.1.1.203.0.113.7",
        "peer203.0.113.7x",
        "203[.]0[.]113[.]7",
        "203(.)0(.)113(.)7",
        "203{.}0.113[.]7",
        "203[dot]0[dot]113[dot]7",
        "203 [.] 0 [.] 113 [.] 7",
        "203 dot 0 dot 113 dot 7",
        "203[.0[.113[.7",
        r"203\.0\.113\.7",
        "hxxp://203[.]0[.]113[.]7/x",
        "7.113.0.203.in-addr.arpa",
        "7.113.0.203.IN-ADDR.ARPA.",
        "7.113.0.203.zen.example.org",
        "203-0-113-7.example.net",
        "ip203_0_113_7.example.net",
        "7-113-0-203.dynamic.example.net",
        "203.000.113.007",
        "0313.0.0161.07",
        "0xcb.0x0.0x71.0x7",
        "0xCB, 0x00, 0x71, 0x07",
        "host203000113007.example.net",
        "203,0,113,7,195,80",
        "[203, 0, 113, 7]",
        "::ffff:203.0.113.7",
        "[::FFFF:203.0.113.7]:22",
        "::ffff:cb00:7107",
        "0:0:0:0:0:ffff:cb00:7107",
        "::cb00:7107",
        "64:ff9b::cb00:7107",
        "64:ff9b::203.0.113.7",
        "2002:cb00:7107::1",
        r"bytes \xcb007107",
        "0XCB007107",
        "00000000000000000000ffffcb007107",
        "hexcb007107",
        "e3b0c442cb00710798fc1c14",
        "077100CB:0016",
        "cb:00:71:07",
        "CB 00 71 07",
        "cb-00-71-07",
        r"\xcb\x00q\x07",
        r"\xCB\x00\x71\x07",
        "%cb%00q%07",
        r"\313\000q\007",
        "3405803783",
        "-889163513",
        "http://3405803783/",
        "203%2E0%2E113%2E7",
        "203%252E0%252E113%252E7",
        r"203\u002e0\u002E113\u{2e}7",
        r"\u0032\u0030\u0033.0.113.7",
        r"203\\u002e0.113.7",
        "203&#46;0&#x2e;113&period;7",
        r"q=%20203.0.113.7",
        "２０３．０．１１３．７",
        "203。0。113。7",
        "203.0.\u{200b}113.7",
        "203.0.28935",
        "http://203.0.28935/",
        "from 203.0.28935.",
        "203.000.28935",
        "0313.0.070407",
        "0xcb.0.28935",
        "203.0.0x7107",
        "0xcb.28935",
        "203.0x7107",
        "031300070407",
        "at 203.0.\n113.7 since",
        "203.\r\n    0.113.7",
        "203.0.113\n.7",
        r"203.0.\n    113.7",
        r"203.0.\\n113.7",
        "[\n  203,\n  0,\n  113,\n  7\n]",
        "cb 00\n71 07",
    ] {
        assert!(both().is_mentioned_in(text), "{text}");
    }
}

#[test]
fn every_form_of_an_ipv6_address_is_found() {
    for text in [
        "2001:db8::7",
        "peer:2001:db8::7",
        "bad:2001:db8::7",
        "22:2001:db8::7",
        "peer: 2001:db8::7: no route",
        "2001:DB8::7.",
        "2001:db8::7.22",
        "2001:db8::7:22",
        "2001:db8::7:50123",
        "2001:db8:0:0:0:0:0:7:22",
        "2001:db8::7:2001:db8::9",
        "2001:db8::9,2001:db8::7",
        "[2001:db8::7]:22",
        "2001:db8::7/128",
        "2001:db8::7/32",
        "2001:db8::7%eth0",
        "2001:0DB8:0000:0000:0000:0000:0000:0007",
        "2001:db8:0::7",
        "2001:db8::0.0.0.7",
        "2001[:]db8[:][:]7",
        "[2001[:]db8[:][:]7]:22",
        "2001%3Adb8%3A%3A7",
        r"2001\u003adb8\u003a\u003a7",
        "2001&colon;db8&#58;&#x3a;7",
        "2001-db8--7.ipv6-literal.net",
        "2001-0db8-0000-0000-0000-0000-0000-0007.example.net",
        "2001_db8__7",
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
        "20010DB8000000000000000000000007",
        r"\x20010db8000000000000000000000007",
        "ff20010db8000000000000000000000007ff",
        "20:01:0d:b8:00:00:00:00:00:00:00:00:00:00:00:07",
        "b80d0120000000000000000007000000",
        r" \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07",
        "42540766411282592856903984951653826567",
        "32.1.13.184.0.0.0.0.0.0.0.0.0.0.0.7",
        "src=2001:db8::7:dst",
        "src=2001:db8::7:_",
        "2001:db8::7:a9x",
        "2001:db8::7:50123:",
        "20010db8-0000-0000-0000-000000000007",
        "{20010DB8-0000-0000-0000-000000000007}",
        "ff20010db8-0000-0000-0000-000000000007ff",
    ] {
        assert!(both().is_mentioned_in(text), "{text}");
    }
    assert!(wanted(&["fe80::7"]).is_mentioned_in("fe80::7%25eth0"));
}

#[test]
fn similar_texts_are_not_found() {
    for text in [
        "",
        "203.0.113",
        "203.0.113.70",
        "203.0.113.77",
        "1203.0.113.7",
        "203.0.113.17",
        "203.0.13.7",
        "203.0.1137",
        "203.0.113-7",
        "7.113.0.203",
        "203:0:113:7",
        "203 0 113 7",
        "203/0/113/7",
        "2001:db8::70",
        "2001:db8::17",
        "12001:db8::7",
        "2001:db8:7::",
        "2001:db8::7:a",
        "2001:db8::7:1:2",
        "2001:db8::",
        "db8::7",
        "::7",
        "34058037830",
        "889163513",
        "0.3405803783",
        "2024-05-01T12:30:45.203+00:00",
        "cb00710",
        "c cb0071 07",
        "ac:b0:07:10:7d:ee",
        "7.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
        "20010db8000000000000000000000008",
        "203,0,113,7,5",
        "[203, 0, 113, 7, 195, 80]",
        "[1, 203, 0, 113, 7]",
        "203,0,113,7,195,8000",
        "203.28935",
        "203.0.28935.1",
        "1.203.0.28935",
        "203.0.28936",
        "203-0-28935",
        "203.0.094471",
        "203.0.113.\n7.8.9.10",
        "203.0.\n113.7.8",
        "203.0.\n\n113 7",
        "203\n0\n113\n7",
        "203,\n0,\n113,\n7,\n5",
        "2001:db8::7:a: no route",
        "2001:db8::7:ab:cd",
        "20010db8-0000-0000-0000-000000000008",
        "20010db8-0000-0000-00000000-00000007",
        "0010db8-0000-0000-0000-000000000007",
    ] {
        assert!(!both().is_mentioned_in(text), "{text}");
    }
}

#[test]
fn a_network_is_no_address() {
    let wanted = wanted(&["203.0.113.0", "2001:db8::"]);
    for (text, is_found) in [
        ("203.0.113.0", true),
        ("203.0.113.0/32", true),
        ("203.0.113.0/24", false),
        ("203.0.113.0/16", true),
        ("203.0.113.0/24 and 203.0.113.0", true),
        ("2001:db8::", true),
        ("2001:db8::/32", false),
        ("2001:db8::/128", true),
        ("2001:db8::7", false),
    ] {
        assert_eq!(wanted.is_mentioned_in(text), is_found, "{text}");
    }
}

/// A version with three numbers may be an address in a short form, but only if its last number has more than one byte.
#[test]
fn versions_and_fractions_are_no_short_forms() {
    let wanted = wanted(&["8.0.0.33", "120.0.23.211", "3.0.0.14"]);
    for text in ["8.0.33", "v3.0.14", "3.14", "8.33", "Chrome/120.0.6099.109", "3.14e5"] {
        assert!(!wanted.is_mentioned_in(text), "{text}");
    }
}

/// The digits of these decimal numbers are also the hexadecimal bytes of an address.
#[test]
fn a_decimal_number_is_not_read_as_hexadecimal() {
    let wanted = wanted(&["112.36.83.105", "23.112.36.83", "32.36.5.1", "16.0.0.1"]);
    for text in ["1770245369", "1770245369/1770245369", "20240501", "id 70245369", "01000010"] {
        assert!(!wanted.is_mentioned_in(text), "{text}");
    }
    for text in ["0x70245369", r"\x17702453", "ff70245369", "01000010:0016"] {
        assert!(wanted.is_mentioned_in(text), "{text}");
    }
}

/// The build time of an mmdb file is in the documents of almost all addresses. As a number it is 105.131.204.249.
#[test]
fn build_times_are_kept() {
    let wanted = wanted(&["105.131.204.249", "203.0.113.7"]);
    let document = |note: &str, raw: &str| {
        format!(
            "{{\"_meta\": {{\"maxmind\": {{\"builds\": \"1770245369/1770245369\"}}}}, \"maxmind\": {{\"build_epoch\": 1770245369, \
             \"asn_build_epoch\": 1770245369, \"note\": \"{note}\"}}, \"raw\": {raw}}}"
        )
    };
    assert_eq!(wanted.removed_from(&document("", "[1]")), None);
    assert_eq!(
        wanted.removed_from(&document("203.0.113.7", "[1, 1770245369]")),
        Some(document(ERASED, "[1, null]"))
    );
    assert_eq!(
        wanted.removed_from("{\"builds\": \"203.0.113.7\"}"),
        Some(format!("{{\"builds\": \"{ERASED}\"}}"))
    );
    assert_eq!(
        wanted.removed_from("{\"build_epoch\": [1770245369], \"builds\": \"at 203.0.113.7\"}"),
        Some(format!("{{\"build_epoch\": [null], \"builds\": \"{ERASED}\"}}"))
    );
}

#[test]
fn erased_keys_stay_different_from_each_other_and_from_other_keys() {
    assert_eq!(
        both().removed_from("{\"203.0.113.7\": 1, \"erased\": 2, \"203.0.113.7:22\": 3}"),
        Some("{\"erased 2\": 1, \"erased\": 2, \"erased 3\": 3}".to_owned())
    );
}

const ERASED: &str = "The text named an address that was erased.";

#[test]
fn a_document_keeps_all_parts_without_a_mention() {
    let document = serde_json::json!({
        "spur": {"ip": "203.0.113.9", "peers": ["203.0.113.7", "203.0.113.70", 3405803783_u32, 1.5e3, true, null]},
        "2001:db8::7": 1,
        "bytes": {"list": [203, 0, 113, 7], "other": [203, 0, 113, 8]},
        "_meta": {"cymru": {"state": "failed", "error": "no route to \"[2001:db8::7]:43\" \\", "asked_at": "2026-11-20T03:18:32.123456+00:00"}},
    });
    let cleaned = both().removed_from(&document.to_string()).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(),
        serde_json::json!({
            "spur": {"ip": "203.0.113.9", "peers": [ERASED, "203.0.113.70", null, 1.5e3, true, null]},
            "erased": 1,
            "bytes": {"list": ERASED, "other": [203, 0, 113, 8]},
            "_meta": {"cymru": {"state": "failed", "error": ERASED, "asked_at": "2026-11-20T03:18:32.123456+00:00"}},
        })
    );
    assert_eq!(both().removed_from(&cleaned), None);
    // Digits of numbers stay as they are.
    let exact = r#"{"a": 1.230000000000000000001, "b": "203.0.113.7"}"#;
    assert!(both().removed_from(exact).unwrap().contains("1.230000000000000000001"));
    let deep = format!("{{\"a\": {}\"203.0.113.7\"{}}}", "[".repeat(5000), "]".repeat(5000));
    let cleaned = both().removed_from(&deep).unwrap();
    assert!(cleaned.len() < 500 && cleaned.contains(ERASED), "{cleaned}");
    for other in ["\"203.0.113.7\"", "[\"203.0.113.7\"]"] {
        assert_eq!(both().removed_from(other).unwrap(), "{}");
    }
}

/// Returns the forms of an IPv4 address that no other IPv4 address has.
fn forms_of_v4(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets();
    vec![
        ip.to_string(),
        format!("{a}[.]{b}[.]{c}[.]{d}"),
        format!("{a}%2e{b}%2E{c}.{d}"),
        format!("::ffff:{ip}"),
        ip.to_ipv6_mapped().to_string(),
        format!("::ffff:{:x}:{:x}", ip.to_bits() >> 16, ip.to_bits() & 0xffff),
        // Without the prefix, a number of decimal digits is not read as hexadecimal.
        format!("0x{a:02x}{b:02x}{c:02x}{d:02x}"),
        format!("{a:02X}:{b:02X}:{c:02X}:{d:02X}"),
        format!("\\x{a:02x}\\x{b:02x}\\x{c:02x}\\x{d:02x}"),
        format!("{d}.{c}.{b}.{a}.in-addr.arpa"),
        format!("{a}-{b}-{c}-{d}.example.net"),
        ip.to_bits().to_string(),
        format!("0{:o}", ip.to_bits()),
        format!("{a}.{b}.0x{c:02x}{d:02x}"),
        format!("0x{a:x}.0x{b:02x}{c:02x}{d:02x}"),
        // Without a third byte, this form is not distinguished from a version.
        format!("{a}.{b}.{}", if c == 0 { ip.to_string() } else { (ip.to_bits() & 0xffff).to_string() }),
        format!("{a}.\n    {b}.{c}.{d}"),
        format!("{a}.{b}.{c}\\n.{d}"),
    ]
}

fn forms_of_v6(ip: Ipv6Addr) -> Vec<String> {
    let segments: Vec<String> = ip.segments().iter().map(|segment| format!("{segment:04X}")).collect();
    let nibbles: Vec<String> = format!("{:032x}", ip.to_bits()).chars().rev().map(String::from).collect();
    vec![
        ip.to_string(),
        segments.join(":"),
        segments.join("-"),
        segments.join("%3a"),
        segments.join("\\u003a"),
        format!("[{ip}]:22"),
        format!("{ip}%eth0"),
        format!("{ip}/128"),
        format!("{:032x}", ip.to_bits()),
        format!("{}.ip6.arpa", nibbles.join(".")),
        format!(
            "{}{}-{}-{}-{}-{}",
            segments[0],
            segments[1],
            segments[2],
            segments[3],
            segments[4],
            segments[5..].concat()
        ),
        ip.to_bits().to_string(),
    ]
}

fn forms(ip: IpAddr) -> Vec<String> {
    match ip {
        IpAddr::V4(ip) => forms_of_v4(ip),
        IpAddr::V6(ip) => forms_of_v6(ip),
    }
}

/// An address of the internet. The first number of an IPv4 address is not 0, so its value has at least eight digits.
fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0x0100_0000_u32..0xe000_0000).prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        (0x2003_u128..0x4000, any::<u128>())
            .prop_map(|(high, low)| { Ipv6Addr::from_bits((high << 112) | (low >> 16)).into() }),
    ]
}

proptest! {
    #[test]
    fn an_address_is_found_in_every_form_and_context(
        ip in ip(),
        before in prop_oneof!["", " ", "peer:", "x=", "\"", "\\[", "/", "1\\.2\\.3\\.4:", "from ", "é"],
        after in prop_oneof!["", " ", ":", ": no", "\"", "\\.", ", ", "/", "]", "é"],
    ) {
        let wanted = Wanted::new([Address::new(ip)]);
        for form in forms(ip) {
            let text = format!("{before}{form}{after}");
            prop_assert!(wanted.is_mentioned_in(&text), "{}", text);
        }
    }

    #[test]
    fn numbers_with_leading_zeros_are_read_as_decimal_and_as_octal(octets in any::<[u8; 4]>()) {
        let [a, b, c, d] = octets;
        let wanted = Wanted::new([Address::new(Ipv4Addr::from(octets).into())]);
        for text in [
            format!("{a:03}.{b:03}.{c:03}.{d:03}"),
            format!("{a:04o}.{b:04o}.{c:04o}.{d:04o}"),
            format!("{a:03}{b:03}{c:03}{d:03}"),
        ] {
            prop_assert!(wanted.is_mentioned_in(&text), "{}", text);
        }
    }

    #[test]
    fn another_address_is_not_found_in_any_form(
        ip in ip(),
        // The bit that distinguishes upper from lower case is left out, because an escaped byte may be a letter.
        bit in (0_u32..32).prop_filter("case", |bit| bit % 8 != 5),
    ) {
        let other: IpAddr = match ip {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ (1 << bit)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ (1 << bit)).into(),
        };
        let wanted = Wanted::new([Address::new(other)]);
        for form in forms(ip) {
            // The forms of a host name are also read in the other order.
            let is_reversed = matches!((ip, other), (IpAddr::V4(a), IpAddr::V4(b))
                if a.octets().iter().rev().eq(b.octets().iter()));
            prop_assert!(is_reversed || !wanted.is_mentioned_in(&form), "{} in {}", other, form);
        }
    }

    #[test]
    fn a_cleaned_document_is_json_without_mentions(
        ip in ip(),
        which in any::<prop::sample::Index>(),
        before in "[ -~]{0,9}",
        words in prop::collection::vec("[ -~é]{0,12}", 4),
    ) {
        let wanted = Wanted::new([Address::new(ip)]);
        let form = which.get(&forms(ip)).clone();
        let document = serde_json::json!({
            "a": [&words[0], {"b": format!("{before} {form}")}, &words[1]],
            format!("{form} {}", words[2]): {"c": &words[3], "d": [[form]]},
        });
        let cleaned = wanted.removed_from(&document.to_string()).expect("a mention");
        prop_assert!(!wanted.is_mentioned_in(&cleaned), "{}", cleaned);
        let cleaned: serde_json::Value = serde_json::from_str(&cleaned).unwrap();
        prop_assert_eq!(&cleaned["a"][0], &document["a"][0]);
        prop_assert_eq!(&cleaned["a"][1]["b"], ERASED);
        prop_assert_eq!(&cleaned["a"][2], &document["a"][2]);
        prop_assert_eq!(&cleaned["erased"]["c"], words[3].as_str());
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9a-fx.:%\\\\&;#\\[\\]u{}/ dotéx-]{0,80}") {
        both().is_mentioned_in(&text);
        both().removed_from(&format!("203.0.113.7{text}"));
        both().removed_from(&format!("{{\"203.0.113.7\": {text}"));
    }
}
