//! Tests records with many statements: of many lists, of nested networks, and of one network with many details.

use std::fmt::Write as _;

use cowrie_enrich_tools::lists::compile::{MAX_STATEMENTS, compile};
use cowrie_enrich_tools::lists::list::List;
use cowrie_enrich_tools::mmdb::Settings;
use maxminddb::Reader;

use super::{PUBLISHED, found, list, serve};

fn settings() -> Settings {
    Settings { build_epoch: Some(PUBLISHED), record_size: None }
}

/// Returns a geofeed that names this number of cities for one prefix.
pub fn cities(count: usize) -> String {
    (0..count).fold(String::new(), |mut file, index| {
        let _ = writeln!(file, "5.6.7.0/24,US,,City {index:02}");
        file
    })
}

/// An mmdb file stores a length below 29 in one byte, and a greater length in more bytes.
#[test]
fn an_address_may_be_in_all_lists_of_a_file() {
    for count in [1, 28, 29, 30, 33, 63, 64] {
        let names: Vec<String> = (1..=count).map(|index| format!("l{index}")).collect();
        let lists: Vec<List> = names.iter().map(|name| list(name, "TOR", "5.0.0.1\n8.8.8.8\n")).collect();
        let served = serve(&lists);
        assert_eq!(found(&served, "5.0.0.1"), names, "{count} lists");
        assert_eq!(found(&served, "8.8.8.8"), names, "{count} lists");
        assert_eq!(found(&served, "8.8.8.9"), [""; 0]);
        // Other readers can read the file too.
        Reader::from_source(compile(&lists, settings()).unwrap().bytes).unwrap().verify().unwrap();
    }
}

#[test]
fn a_geofeed_may_nest_31_prefixes() {
    let mut file = String::new();
    let mut expected = Vec::new();
    for length in 20..=50 {
        let _ = writeln!(file, "2a00::/{length},US,,City {length}");
        expected.push(format!("geo//US, City {length}"));
    }
    let served = serve(&[list("geo", "DATACENTER", &file)]);
    assert_eq!(found(&served, "2a00::1"), expected);
    // Bit 34 is set, so the address is in the prefixes from /20 to /33.
    assert_eq!(found(&served, "2a00:0:4000::1"), expected[..14]);
}

#[test]
fn a_network_may_have_64_details_in_a_list() {
    for count in [28, 29, 30, 33, MAX_STATEMENTS] {
        let served = serve(&[list("geo", "DATACENTER", &cities(count))]);
        let expected: Vec<String> = (0..count).map(|index| format!("geo//US, City {index:02}")).collect();
        assert_eq!(found(&served, "5.6.7.8"), expected);
    }
}

#[test]
fn more_details_in_a_list_are_an_error() {
    let expected = "list geo: more than 64 different statements about 5.6.7.0/24 (provider, region, service)";
    let lists = [list("tor", "TOR", "5.6.7.8\n"), list("geo", "DATACENTER", &cities(MAX_STATEMENTS + 1))];
    assert_eq!(compile(&lists, settings()).map(|file| file.networks).unwrap_err().to_string(), expected);
}

#[test]
fn equal_statements_of_a_list_about_a_network_are_merged() {
    let same = "5.6.7.0/24,US,,Clifton\n5.6.7.77/24,US,,\"Clifton\"\n5.6.7.128/25,US,,Clifton\n".repeat(100);
    let lists = [list("geo", "DATACENTER", &same)];
    assert_eq!(found(&serve(&lists), "5.6.7.200"), ["geo//US, Clifton"]);
    assert_eq!(compile(&lists, settings()).unwrap().networks, 1);
}
