//! Settings that name several mmdb files: the files are asked in order, and each has its own private copy and state.

use std::path::{Path, PathBuf};

use cowrie_enrich_test_mmdb::Writer;
use serde_json::json;
use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::{Cluster, Database, Options, fresh_database, wait_until};

const STATES: &str = "SELECT kind, file_number, vendor, database_type, last_error IS NOT NULL
                      FROM mmdb_status() WHERE kind = 'city'";

/// Sets the list of a setting, waits until the session has read it, and puts the files into service.
fn name(cluster: &Cluster, db: &mut Database<'_>, setting: &str, files: &[&Path]) {
    let list = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    cluster.reconfigure(&[format!("cowrie_enrich.{setting} = '{list}'")]);
    wait_until(
        "the backend has read the setting",
        || db.one(&format!("SELECT current_setting('cowrie_enrich.{setting}')")),
        |value| *value == list,
    );
    // A test that names a refused file checks the state of the file.
    let _ = db.try_run("SELECT reload_mmdb()");
}

/// Writes a file with one record for each prefix.
fn file(cluster: &Cluster, name: &str, writer: Writer, records: &[(&str, serde_json::Value)]) -> PathBuf {
    let path = cluster.files().join(name);
    let mut writer = writer;
    for (prefix, record) in records {
        writer.insert(prefix, record.clone());
    }
    writer.write(&path);
    path
}

fn flat(country: &str, city: &str) -> serde_json::Value {
    json!({"country_code": country, "city": city, "latitude": 1.5, "longitude": 2.5})
}

#[test]
fn one_file_for_each_family_answers_for_both_families() {
    let cluster = cluster_with_world(&Options::named("several-families"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let four = file(&cluster, "v4.mmdb", Writer::new("city ipv4", 4), &[("8.8.8.0/24", flat("US", "Reno"))]);
    let six = file(&cluster, "v6.mmdb", Writer::new("city ipv6", 6), &[("2a00::/16", flat("FR", "Paris"))]);

    name(&cluster, &mut db, "city_database", &[&four, &six]);
    let cities = "SELECT ip_country(a), ip_city(a) FROM unnest('{8.8.8.8,2a00::1,9.9.9.9}'::inet[]) a";
    assert_eq!(db.rows(cities), ["US|Reno", "FR|Paris", "NULL|NULL"]);
    assert_eq!(db.rows(STATES), ["city|1|ip-location-db|city ipv4|f", "city|2|ip-location-db|city ipv6|f"]);
    // The network comes from a file of another vendor.
    assert_eq!(
        db.one("SELECT maxmind_lookup('8.8.8.8') - 'cached_at'"),
        r#"{"asn": 15169, "city": "Reno", "vendor": "ip-location-db", "asn_org": "GOOGLE", "country": "US", "latitude": 1.5, "longitude": 2.5, "asn_vendor": "MaxMind", "build_epoch": 1700000000, "asn_build_epoch": 1700000000}"#
    );
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("2a00::1"))]));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "b"), "NULL|FR|NULL");
}

#[test]
fn a_later_file_fills_what_the_first_lacks() {
    let cluster = cluster_with_world(&Options::named("several-fills"));
    let mut db = fresh_database(&cluster);
    let country = |code: &str| json!({"country_code": code});
    let countries = file(
        &cluster,
        "countries.mmdb",
        Writer::new("country ipvAll", 6),
        &[("20.0.0.0/16", country("DE")), ("20.1.0.0/16", country("DE")), ("20.2.0.0/16", country("DE"))],
    );
    let cities = file(
        &cluster,
        "cities.mmdb",
        Writer::new("DBIP-City-Lite", 6),
        &[("20.0.0.0/16", flat("DE", "Berlin")), ("20.1.0.0/16", flat("FR", "Paris"))],
    );
    let found = "SELECT ip_country(a), ip_city(a), l ->> 'city', l ->> 'latitude', l ->> 'vendor'
                 FROM unnest('{20.0.0.1,20.1.0.1,20.2.0.1}'::inet[]) a, maxmind_lookup(a) l";

    name(&cluster, &mut db, "city_database", &[&countries, &cities]);
    assert_eq!(
        db.rows(found),
        [
            "DE|Berlin|Berlin|1.5|ip-location-db, DB-IP",
            // The second file names another country, so its city does not count.
            "DE|NULL|NULL|NULL|ip-location-db",
            "DE|NULL|NULL|NULL|ip-location-db",
        ]
    );
    name(&cluster, &mut db, "city_database", &[&cities, &countries]);
    assert_eq!(
        db.rows(found),
        ["DE|Berlin|Berlin|1.5|DB-IP", "FR|Paris|Paris|1.5|DB-IP", "DE|NULL|NULL|NULL|ip-location-db"]
    );
}

#[test]
fn a_newer_asn_file_behind_an_older_one_answers_for_new_networks() {
    let cluster = cluster_with_world(&Options::named("several-asn"));
    let mut db = fresh_database(&cluster);
    let asn = |number: u32, name: Option<&str>| match name {
        Some(name) => json!({"autonomous_system_number": number, "autonomous_system_organization": name}),
        None => json!({"autonomous_system_number": number}),
    };
    let older = file(
        &cluster,
        "older.mmdb",
        Writer::new("GeoLite2-ASN", 6),
        &[("20.0.0.0/16", asn(64500, Some("Old"))), ("20.1.0.0/16", asn(64501, None))],
    );
    let newer = file(
        &cluster,
        "newer.mmdb",
        Writer::new("DBIP-ASN-Lite", 6).build_epoch(1_800_000_000),
        &[
            ("20.0.0.0/16", asn(64600, Some("New"))),
            ("20.1.0.0/16", asn(64501, Some("Named"))),
            ("20.2.0.0/16", asn(64602, Some("Added"))),
        ],
    );
    name(&cluster, &mut db, "asn_database", &[&older, &newer]);
    assert_eq!(
        db.rows(
            "SELECT ip_asn(a), ip_asn_org(a), l ->> 'asn_org', l ->> 'vendor', l ->> 'build_epoch'
             FROM unnest('{20.0.0.1,20.1.0.1,20.2.0.1}'::inet[]) a, maxmind_lookup(a) l"
        ),
        [
            "64500|Old|Old|MaxMind|1700000000",
            "64501|Named|Named|MaxMind, DB-IP|1700000000",
            "64602|Added|Added|DB-IP|1800000000",
        ]
    );
}

#[test]
fn each_file_is_replaced_and_refused_by_itself() {
    let cluster = cluster_with_world(&Options::named("several-replaced"));
    let mut db = fresh_database(&cluster);
    let one = file(&cluster, "one.mmdb", Writer::new("one", 4), &[("20.0.0.0/16", flat("DE", "Berlin"))]);
    let two = file(&cluster, "two.mmdb", Writer::new("two", 4), &[("20.1.0.0/16", flat("FR", "Paris"))]);
    name(&cluster, &mut db, "city_database", &[&one, &two]);
    db.run("SELECT enrich_ip('20.1.0.1')");
    let stored = "SELECT enrichment #>> '{maxmind,city}', enrichment #>> '{_meta,maxmind,builds}'
                  FROM ip_inventory WHERE ip_address = '20.1.0.1'";
    assert_eq!(db.one(stored), "Paris|1700000000+1700000000/1700000000");

    let newer = Writer::new("two", 4).build_epoch(1_800_000_000);
    file(&cluster, "two.mmdb", newer, &[("20.1.0.0/16", flat("FR", "Lyon"))]);
    db.run("SELECT reload_mmdb(); SELECT enrich_ip('20.1.0.1')");
    assert_eq!(db.one(stored), "Lyon|1700000000+1800000000/1700000000");

    std::fs::write(&two, "no mmdb file").expect("it can be written");
    let refusal = db.refused("SELECT reload_mmdb()");
    assert!(refusal.message.contains("two.mmdb"), "{refusal:?}");
    assert_eq!(db.rows(STATES), ["city|1|one|one|f", "city|2|two|two|t"]);
    assert_eq!(db.one("SELECT ip_city('20.0.0.1'), ip_city('20.1.0.1')"), "Berlin|Lyon");

    // A file that never was valid: the others answer, and a metric tells.
    let bad = cluster.files().join("bad.mmdb");
    std::fs::write(&bad, "no mmdb file").expect("it can be written");
    name(&cluster, &mut db, "city_database", &[&one, &two, &bad]);
    assert_eq!(db.one("SELECT ip_city('20.0.0.1'), ip_city('20.1.0.1')"), "Berlin|Lyon");
    assert_eq!(
        db.rows(
            "SELECT labels ->> 'kind', labels ->> 'file', value FROM enrich_metrics
             WHERE name = 'enrich_mmdb_in_service' ORDER BY 1, 2"
        ),
        ["asn|1|1", "city|1|1", "city|2|1", "city|3|0"]
    );
    assert_eq!(
        db.rows(
            "SELECT labels ->> 'file', labels ->> 'vendor' FROM enrich_metrics
             WHERE name = 'enrich_mmdb_loaded_timestamp_seconds' AND labels ->> 'kind' = 'city' ORDER BY 1"
        ),
        ["1|one", "2|two"]
    );
}

#[test]
fn copies_of_files_that_are_named_no_more_are_removed() {
    let cluster = cluster_with_world(&Options::named("several-removed"));
    let mut db = fresh_database(&cluster);
    let one = file(&cluster, "one.mmdb", Writer::new("one", 4), &[("20.0.0.0/16", flat("DE", "Berlin"))]);
    let two = file(&cluster, "two.mmdb", Writer::new("two", 4), &[("20.1.0.0/16", flat("FR", "Paris"))]);
    let copies = || {
        let entries =
            std::fs::read_dir(cluster.data_dir().join("cowrie_enrich")).expect("the copies' folder");
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("city.2")).count()
    };
    name(&cluster, &mut db, "city_database", &[&one, &two]);
    assert_eq!(copies(), 2);
    name(&cluster, &mut db, "city_database", &[&two]);
    assert_eq!(copies(), 0);
    assert_eq!(db.one("SELECT ip_city('20.0.0.1'), ip_city('20.1.0.1')"), "NULL|Paris");
    assert_eq!(db.rows(STATES), ["city|1|two|two|f"]);
}

#[test]
fn a_list_with_an_empty_path_is_refused() {
    let cluster = cluster_with_world(&Options::named("several-lists"));
    let mut db = fresh_database(&cluster);
    for list in ["/a.mmdb,,/b.mmdb", "/a.mmdb,", "/a\"b.mmdb"] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.city_database = '{list}'"));
        assert_eq!(refusal.code, "22023", "{list}: {refusal:?}");
        assert!(refusal.detail.is_some() && refusal.hint.is_some(), "{list}: {refusal:?}");
    }
    let comma = file(&cluster, "a,b.mmdb", Writer::new("one", 4), &[("20.0.0.0/16", flat("DE", "Berlin"))]);
    let list = format!("\"{}\"", comma.display());
    name(&cluster, &mut db, "city_database", &[Path::new(&list)]);
    assert_eq!(db.one("SELECT ip_city('20.0.0.1')"), "Berlin");
}
