//! Compares the table of AS numbers with IANA's files, and tests the script that generates the table.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use cowrie_enrich_engine::as_registry::{is_bogon, registry};
use cowrie_enrich_engine::providers::Registry;
use proptest::prelude::*;

const FILES: [&str; 3] = ["as-numbers-1.csv", "as-numbers-2.csv", "special-purpose-as-numbers.csv"];

/// A row of as-numbers-1.csv or as-numbers-2.csv.
struct Row {
    first: u32,
    last: u32,
    registry: Option<&'static str>,
}

fn engine() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn published(file: &str) -> String {
    std::fs::read_to_string(engine().join("tests/iana").join(file)).unwrap()
}

fn range(text: &str) -> (u32, u32) {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    (first.parse().unwrap(), last.parse().unwrap())
}

/// Reads the files by another rule than the script: the registry comes from the description.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for file in &FILES[..2] {
        for line in published(file).split("\r\n").skip(1).filter(|line| !line.is_empty()) {
            let cells: Vec<&str> = line.split(',').collect();
            if cells[1] == "See Sub-registry 16-bit AS numbers" {
                continue;
            }
            let (first, last) = range(cells[0]);
            let registry = match cells[1] {
                "Assigned by ARIN" => Some("ARIN"),
                "Assigned by RIPE NCC" => Some("RIPE"),
                "Assigned by APNIC" => Some("APNIC"),
                "Assigned by LACNIC" => Some("LACNIC"),
                "Assigned by AFRINIC" => Some("AFRINIC"),
                _ => None,
            };
            rows.push(Row { first, last, registry });
        }
    }
    rows
}

fn special_purpose() -> Vec<(u32, u32)> {
    let text = published(FILES[2]);
    text.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split(',').next())
        .filter(|cell| !cell.is_empty())
        .map(range)
        .collect()
}

fn expected_registry(rows: &[Row], asn: u32) -> Option<&'static str> {
    rows.iter().find(|row| row.first <= asn && asn <= row.last).unwrap().registry
}

fn expected_bogon(ranges: &[(u32, u32)], asn: u32) -> bool {
    asn != 112 && ranges.iter().any(|(first, last)| (*first..=*last).contains(&asn))
}

#[test]
fn the_files_have_173_ranges_without_a_gap() {
    let rows = rows();
    assert_eq!(rows.len(), 173);
    assert_eq!((rows[0].first, rows[172].last), (0, u32::MAX));
    for pair in rows.windows(2) {
        assert_eq!(pair[0].last + 1, pair[1].first);
    }
    let count = |name| rows.iter().filter(|row| row.registry == Some(name)).count();
    assert_eq!(["ARIN", "RIPE", "APNIC", "LACNIC", "AFRINIC"].map(count), [42, 58, 37, 18, 4]);
}

#[test]
fn the_numbers_at_the_ends_of_every_range_have_the_registry_of_the_files() {
    let (rows, special) = (rows(), special_purpose());
    let ends = rows.iter().map(|row| (row.first, row.last)).chain(special.iter().copied());
    for asn in ends.flat_map(|(first, last)| {
        [
            first.saturating_sub(1),
            first,
            first.saturating_add(1),
            last.saturating_sub(1),
            last,
            last.saturating_add(1),
        ]
    }) {
        assert_eq!(registry(asn).map(Registry::name), expected_registry(&rows, asn), "AS{asn}");
        assert_eq!(is_bogon(asn), expected_bogon(&special, asn), "AS{asn}");
    }
}

#[test]
fn well_known_networks_have_their_registries() {
    for (asn, expected) in [
        (15169, Some("ARIN")),
        (16509, Some("ARIN")),
        (24940, Some("RIPE")),
        (3320, Some("RIPE")),
        (4837, Some("APNIC")),
        // China Telecom moved its number from ARIN to APNIC, which IANA does not record.
        (4134, Some("ARIN")),
        (45090, Some("APNIC")),
        (28573, Some("LACNIC")),
        (262287, Some("LACNIC")),
        (37100, Some("AFRINIC")),
        (328474, Some("AFRINIC")),
        (396982, Some("ARIN")),
        (213230, Some("RIPE")),
        (0, None),
        (23456, None),
        (64512, None),
        (100_000, None),
        (4_000_000_000, None),
    ] {
        assert_eq!(registry(asn).map(Registry::name), expected, "AS{asn}");
    }
}

#[test]
fn the_number_of_the_as112_project_is_no_bogon() {
    assert!(!is_bogon(112));
    assert!(special_purpose().contains(&(112, 112)));
}

#[test]
fn numbers_that_are_not_allocated_yet_are_no_bogons() {
    for asn in [100_000, 155_962, 404_381, 4_199_999_999] {
        assert!(registry(asn).is_none() && !is_bogon(asn), "AS{asn}");
    }
}

proptest! {
    #[test]
    fn any_number_has_the_registry_of_the_files(asn in prop_oneof![any::<u32>(), 0..410_000_u32]) {
        prop_assert_eq!(registry(asn).map(Registry::name), expected_registry(&rows(), asn));
        prop_assert_eq!(is_bogon(asn), expected_bogon(&special_purpose(), asn));
    }
}

fn generate(files: [&Path; 3]) -> Output {
    Command::new("sh").arg(engine().join("../scripts/generate-as-registry")).args(files).output().unwrap()
}

fn paths() -> [PathBuf; 3] {
    FILES.map(|file| engine().join("tests/iana").join(file))
}

/// Runs the script with one file changed. Returns its output, or its message.
fn with_change(file: usize, change: impl Fn(&str) -> String) -> Result<String, String> {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let folder =
        format!("{}/as_registry.{}", env!("CARGO_TARGET_TMPDIR"), FOLDERS.fetch_add(1, Ordering::Relaxed));
    std::fs::create_dir_all(&folder).unwrap();
    let mut paths = paths();
    paths[file] = Path::new(&folder).join(FILES[file]);
    std::fs::write(&paths[file], change(&published(FILES[file]))).unwrap();
    let output = generate([&paths[0], &paths[1], &paths[2]]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        return Ok(text(output.stdout));
    }
    assert!(output.stdout.is_empty(), "the script failed and wrote a table");
    Err(text(output.stderr))
}

fn table() -> String {
    std::fs::read_to_string(engine().join("src/as_registry/table.rs")).unwrap()
}

#[test]
fn the_script_generates_the_table() {
    let [first, second, special] = &paths();
    let output = generate([first, second, special]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), table());
}

/// A change of a file that must not change the table.
type Harmless = (&'static str, usize, fn(&str) -> String);

#[test]
fn the_table_does_not_depend_on_how_a_file_is_written() {
    let cases: [Harmless; 6] = [
        ("LF at the end of lines", 0, |text| text.replace("\r\n", "\n")),
        ("a byte order mark", 1, |text| format!("\u{feff}{text}")),
        ("quoted cells with commas, quotes and a line end", 0, |text| {
            text.replace(
                "1-1876,Assigned by ARIN,whois.arin.net,",
                "\"1-1876\",\"Assigned \"\"by\"\", ARIN\n        and others\",whois.arin.net,",
            )
        }),
        ("another description than the WHOIS host's", 0, |text| {
            text.replace("1877-1901,Assigned by RIPE NCC,", "1877-1901,Assigned by ARIN,")
        }),
        ("no WHOIS host", 1, |text| text.replace("whois.lacnic.net", "")),
        ("columns in another order", 2, |text| {
            text.lines()
                .map(|line| {
                    let (number, rest) = line.split_once(',').unwrap();
                    let (reason, reference) = rest.rsplit_once(',').unwrap();
                    format!("{reference},{number},{reason}\r\n")
                })
                .collect()
        }),
    ];
    for (what, file, change) in cases {
        assert_ne!(change(&published(FILES[file])), published(FILES[file]), "{what}");
        assert_eq!(with_change(file, change).as_deref(), Ok(table().as_str()), "{what}");
    }
}

#[test]
fn the_script_refuses_a_file_that_is_not_as_expected() {
    let cases: [(usize, fn(&str) -> String, &str); 11] = [
        (0, |text| text.replace("1877-1901,", "1878-1901,"), "as-numbers-1.csv:4: the range does not follow"),
        (0, |text| text.replace("1877-1901,", "1876-1901,"), "as-numbers-1.csv:4: the range does not follow"),
        (
            0,
            |text| text.replace("1877-1901,", "1901-1877,"),
            "as-numbers-1.csv:4: \"1901-1877\" is not a range",
        ),
        (0, |text| text.replace("1877-1901,", "AS1877,"), "as-numbers-1.csv:4: \"AS1877\" is neither"),
        (0, |text| text.replace("\r\n65535,Reserved,,,[RFC7300],", ""), "the ranges end at 65534"),
        (0, |text| text.replace("1877-1901,", "\"1877-1901,"), "a quoted field has no end"),
        (1, |text| text.replace("4294967295,", "4294967296,"), "\"4294967296\" is not a range of AS numbers"),
        (
            1,
            |text| text.replacen("whois.apnic.net", "whois.example.net", 1),
            "\"whois.example.net\" is not the host",
        ),
        (
            1,
            |text| text.replacen("Unallocated", "Assigned by MARS NIC", 1),
            "unknown description \"Assigned by MARS",
        ),
        (1, |text| text.replace("Description", "Text"), "as-numbers-2.csv:1: unexpected columns"),
        (2, |_| String::new(), "a file is empty"),
    ];
    for (file, change, expected) in cases {
        let message = with_change(file, change).expect_err(expected);
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
}

#[test]
fn the_script_needs_its_three_files() {
    let output = Command::new("sh").arg(engine().join("../scripts/generate-as-registry")).output().unwrap();
    assert!(!output.status.success());
    let missing = generate([Path::new("missing.csv"), &paths()[1], &paths()[2]]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot read missing.csv"));
}
