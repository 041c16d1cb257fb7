//! The setting `mmdb_max_age`: lookups do not use an mmdb file that is too old, and its private copy is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cowrie_enrich_test_mmdb::Writer;
use server_tests::clock::Clock;
use server_tests::database::{cluster_with_unread_world, cluster_with_world};
use server_tests::hosts::COWRIE;
use server_tests::world::{asn_database, city_database, crowd_member};
use server_tests::{Cluster, Database, Options, Session, fresh_database, wait_until};

const DAY: u64 = 86_400;

/// Returns the time that was this many seconds ago, in seconds since 1970.
fn ago(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() - seconds
}

fn city(cluster: &Cluster) -> PathBuf {
    cluster.files().join("age-city.mmdb")
}

fn asn(cluster: &Cluster) -> PathBuf {
    cluster.files().join("age-asn.mmdb")
}

/// Replaces a file as programs that fetch files do.
fn replace(path: &Path, writer: &Writer) {
    let draft = path.with_extension("new");
    writer.write(&draft);
    fs::rename(&draft, path).expect("the file is replaced");
}

/// Writes both files with these builds, sets the settings, and loads the files that are not too old.
fn configure(cluster: &Cluster, db: &mut Session, city_build: u64, asn_build: u64, max_age: &str) {
    replace(&city(cluster), &city_database().build_epoch(city_build));
    replace(&asn(cluster), &asn_database().build_epoch(asn_build));
    set(cluster, db, max_age, &[&city(cluster)]);
    let _ = db.try_run("SELECT enrich.reload_mmdb()");
}

/// Sets the maximum age and the list of City files, and waits until a connection has read them.
fn set(cluster: &Cluster, db: &mut Session, max_age: &str, cities: &[&Path]) {
    let cities = cities.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    cluster.reconfigure(&[
        format!("cowrie_enrich.city_database = '{cities}'"),
        format!("cowrie_enrich.asn_database = '{}'", asn(cluster).display()),
        format!("cowrie_enrich.mmdb_max_age = '{max_age}'"),
    ]);
    let settings = "SELECT current_setting('cowrie_enrich.city_database'), current_setting('cowrie_enrich.mmdb_max_age')";
    let expected = format!("{cities}|{max_age}");
    wait_until("the connection has read the settings", || db.one(settings), |shown| *shown == expected);
}

/// Returns the beginnings of the names of the private copies, in order.
fn copies(cluster: &Cluster) -> Vec<String> {
    let directory = cluster.data_dir().join("cowrie_enrich");
    let entries = fs::read_dir(directory).expect("the directory of the copies");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut stems: Vec<String> = names
        .filter(|name| name.ends_with(".mmdb") || name.ends_with(".draft"))
        .map(|name| name.split('-').next().unwrap_or_default().to_owned())
        .collect();
    stems.sort();
    stems
}

fn wait_for_copies(cluster: &Cluster, expected: &[&str]) {
    wait_until("the copies that should be there are there", || copies(cluster), |names| names == expected);
}

/// Returns country and ASN of an address in both files.
fn known(db: &mut Session) -> String {
    db.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')")
}

/// Waits until lookups return these values. A backend looks at the files once a second.
fn wait_for(db: &mut Session, expected: &str) {
    wait_until("lookups return the values", || known(db), |values| values == expected);
}

const STATUS: &str = "SELECT kind, vendor IS NOT NULL, build_time IS NOT NULL,
                             last_error LIKE 'the mmdb file is older than the setting mmdb_max_age allows; the file was built at 20%'
                      FROM mmdb_status() ORDER BY 1 DESC, file_number";

fn metric(db: &mut Session, name: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT labels ->> 'kind', labels ->> 'file', value FROM enrich_metrics WHERE name = '{name}' ORDER BY 1, 2"
    ))
}

#[test]
fn file_that_is_too_old_states_nothing_and_its_copy_is_removed() {
    let cluster = cluster_with_unread_world(&Options::named("age-stale"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    configure(&cluster, &mut db, ago(40 * DAY), ago(DAY), "0");
    wait_for(&mut db, "US|15169");
    db.run(&COWRIE.insert(&[("before", Some("8.8.8.8"))]));
    assert_eq!(copies(&cluster), ["asn", "city"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_too_old"), ["asn|1|0", "city|1|0"]);

    set(&cluster, &mut db, "30d", &[&city(&cluster)]);
    wait_for(&mut db, "NULL|15169");
    wait_for_copies(&cluster, &["asn"]);
    assert!(city(&cluster).is_file(), "the operator's file stays");
    db.run(&COWRIE.insert(&[("after", Some("8.8.8.8")), ("other", Some("89.160.20.1"))]));
    // The inventory has the country of the earlier lookup. The other address has none.
    assert_eq!(COWRIE.snapshot(&mut db, "before"), "15169|US|NULL");
    assert_eq!(COWRIE.snapshot(&mut db, "after"), "15169|US|NULL");
    assert!(COWRIE.snapshot(&mut db, "other").ends_with("|NULL|NULL"));
    assert_eq!(db.rows(STATUS), ["city|f|f|t", "asn|t|t|NULL"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_too_old"), ["asn|1|0", "city|1|1"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_in_service"), ["asn|1|1", "city|1|0"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_build_age_seconds").len(), 1);
    assert_eq!(db.one("SELECT mmdb_in_service('city'), mmdb_in_service('asn')"), "f|t");
    let refusal = db.refused("SELECT reload_mmdb()");
    assert_eq!(refusal.code, "55000");
    assert!(refusal.hint.as_deref().is_some_and(|hint| hint.contains("mmdb_max_age")), "{refusal:?}");
    assert_eq!(copies(&cluster), ["asn"], "the file was copied and refused");

    // A fresher file is used without a restart.
    replace(&city(&cluster), &city_database().build_epoch(ago(2 * DAY)));
    wait_for(&mut db, "US|15169");
    assert_eq!(copies(&cluster), ["asn", "city"]);
    db.run(&COWRIE.insert(&[("fresh", Some("81.2.69.1"))]));
    assert_eq!(db.rows(STATUS), ["city|t|t|NULL", "asn|t|t|NULL"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_too_old"), ["asn|1|0", "city|1|0"]);
    let log = cluster.whole_log();
    let lines = log.lines().filter(|line| line.contains("removed the copy of an mmdb file that is too old"));
    assert_eq!(lines.count(), 1, "{log}");
}

#[test]
fn sessions_alone_make_the_copy_go_and_never_wait() {
    let cluster = cluster_with_unread_world(&Options::named("age-sessions"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    configure(&cluster, &mut db, ago(40 * DAY), ago(DAY), "0");
    wait_for(&mut db, "US|15169");
    // Another process puts files into service, for as long as it holds this lock.
    let lock =
        File::options().write(true).open(cluster.data_dir().join("cowrie_enrich/lock")).expect("the lock");
    lock.lock().expect("locked");
    set(&cluster, &mut db, "30d", &[&city(&cluster)]);
    let mut n = 0;
    // Returns the country of the new session. Each address is new, so that its country is not in the inventory.
    let mut country_of_new = |db: &mut Session| {
        n += 1;
        let key = format!("k{n}");
        db.run(&COWRIE.insert(&[(&key, Some(&crowd_member(n)))]));
        let snapshot = COWRIE.snapshot(db, &key);
        let values: Vec<&str> = snapshot.split('|').collect();
        assert_ne!(values[0], "NULL", "the network comes from the other file");
        values[1].to_owned()
    };
    wait_until("new sessions get no country", || country_of_new(&mut db), |country| country == "NULL");
    assert_eq!(copies(&cluster), ["asn", "city"], "the copy cannot be removed yet");
    assert_eq!(db.rows(STATUS), ["city|f|f|t", "asn|t|t|NULL"]);
    drop(lock);
    wait_until(
        "the copy is removed",
        || {
            assert_eq!(country_of_new(&mut db), "NULL");
            copies(&cluster)
        },
        |names| *names == ["asn"],
    );
    // The sessions make a fresher file come into service, too.
    replace(&city(&cluster), &city_database().build_epoch(ago(DAY)));
    wait_until("new sessions get a country", || country_of_new(&mut db), |country| country != "NULL");
    assert_eq!(copies(&cluster), ["asn", "city"]);
}

/// No statement reads a file. Time passes, and no setting changes.
#[test]
fn worker_removes_a_copy_that_becomes_too_old_while_nothing_happens() {
    let clock = Clock::at_noon("age-clock");
    let options = Options::named("age-clock")
        .with_worker()
        .with_clock(&clock)
        .conf("cowrie_enrich.worker_naptime = 100ms")
        .conf("cowrie_enrich.mmdb_max_age = '30d'");
    let cluster = cluster_with_unread_world(&options);
    let mut db = fresh_database(&cluster);
    configure(&cluster, &mut db, ago(20 * DAY), ago(2 * DAY), "30d");
    wait_for(&mut db, "US|15169");
    assert_eq!(copies(&cluster), ["asn", "city"]);
    clock.set(9, 12 * 3600);
    assert_eq!(copies(&cluster), ["asn", "city"], "29 days");
    clock.set(11, 12 * 3600);
    wait_for_copies(&cluster, &["asn"]);
    assert_eq!(known(&mut db), "NULL|15169");
    clock.set(29, 12 * 3600);
    wait_for_copies(&cluster, &[]);
    assert_eq!(known(&mut db), "NULL|NULL");
    assert!(city(&cluster).is_file() && asn(&cluster).is_file());
}

#[test]
fn file_is_used_again_when_the_setting_allows_it() {
    let cluster = cluster_with_unread_world(&Options::named("age-raised"));
    let mut db = fresh_database(&cluster);
    for allowed in ["0", "50d"] {
        configure(&cluster, &mut db, ago(40 * DAY), ago(DAY), "30d");
        wait_for(&mut db, "NULL|15169");
        wait_for_copies(&cluster, &["asn"]);
        // A file with the same age is copied and refused once more, and its copy is removed.
        replace(&city(&cluster), &city_database().build_epoch(ago(40 * DAY)));
        wait_for(&mut db, "NULL|15169");
        wait_for_copies(&cluster, &["asn"]);
        // The file did not change since it was refused.
        set(&cluster, &mut db, allowed, &[&city(&cluster)]);
        wait_for(&mut db, "US|15169");
        assert_eq!(db.rows(STATUS), ["city|t|t|NULL", "asn|t|t|NULL"]);
    }
}

#[test]
fn older_file_does_not_replace_the_one_in_service() {
    let cluster = cluster_with_unread_world(&Options::named("age-older"));
    let mut db = fresh_database(&cluster);
    configure(&cluster, &mut db, ago(DAY), ago(DAY), "30d");
    wait_for(&mut db, "US|15169");
    replace(&city(&cluster), &city_database().build_epoch(ago(31 * DAY)));
    assert_eq!(db.refused("SELECT reload_mmdb()").code, "55000");
    assert_eq!(known(&mut db), "US|15169");
    assert_eq!(db.rows(STATUS), ["city|t|t|t", "asn|t|t|NULL"]);
    assert_eq!(metric(&mut db, "enrich_mmdb_too_old"), ["asn|1|0", "city|1|0"]);
    assert_eq!(copies(&cluster), ["asn", "city"]);
}

#[test]
fn copies_that_no_setting_names_and_unfinished_copies_go_too() {
    let cluster = cluster_with_unread_world(&Options::named("age-left"));
    let mut db = fresh_database(&cluster);
    let second = cluster.files().join("age-second.mmdb");
    replace(&second, &city_database().build_epoch(ago(50 * DAY)));
    configure(&cluster, &mut db, ago(40 * DAY), ago(DAY), "0");
    set(&cluster, &mut db, "0", &[&city(&cluster), &second]);
    wait_until(
        "both files are in service",
        || {
            known(&mut db);
            copies(&cluster)
        },
        |names| *names == ["asn", "city", "city.2"],
    );
    // A killed process left a copy that no status names, and an unfinished copy. The setting does not apply to files of types.
    let directory = cluster.data_dir().join("cowrie_enrich");
    let of_types = format!("types-0123456789abcdef-{}-2a.mmdb", ago(40 * DAY));
    for name in [&format!("city-{}-2a.mmdb", ago(60 * DAY)), &"asn.draft".to_owned(), &of_types] {
        fs::write(directory.join(name), "x").expect("a file is written");
    }
    // The setting no longer names a City file. Without a maximum age the copy would stay, because this may be a mistake.
    set(&cluster, &mut db, "30d", &[]);
    wait_until(
        "the copies are gone",
        || {
            known(&mut db);
            copies(&cluster)
        },
        |names| *names == ["asn", "types"],
    );
    assert!(second.is_file() && city(&cluster).is_file());
    assert_eq!(known(&mut db), "NULL|15169");
    // Without the setting the old file is used again.
    set(&cluster, &mut db, "0", &[&second]);
    wait_for(&mut db, "US|15169");
}

#[test]
fn setting_has_bounds_and_only_a_reload_changes_it() {
    let cluster = cluster_with_world(&Options::named("age-setting"));
    let mut db: Database<'_> = fresh_database(&cluster);
    assert_eq!(db.one("SHOW cowrie_enrich.mmdb_max_age"), "0");
    assert_eq!(known(&mut db), "US|15169", "a file of any age is used");
    assert_eq!(db.refused("SET cowrie_enrich.mmdb_max_age = '1d'").code, "55P02");
    assert_eq!(
        db.one("SELECT unit, min_val, max_val, boot_val FROM pg_settings WHERE name = 'cowrie_enrich.mmdb_max_age'"),
        "s|0|315360000|0"
    );
}
