//! The figures of a report equal an independent count over the log.

use std::collections::{BTreeMap, BTreeSet};

use crate::counted::{self, Session, by};
use crate::place::{Place, figure, number, rows, section, text};

/// Compares a table of the page, whose cells are a value, sessions, the share, and addresses.
#[track_caller]
fn assert_counts(part: &str, expected: BTreeMap<String, (u64, u64)>) {
    let found: BTreeMap<String, (u64, u64)> =
        rows(part).into_iter().map(|row| (row[0].clone(), (number(&row[1]), number(&row[3])))).collect();
    assert_eq!(found, expected);
}

#[test]
fn figures_equal_an_independent_count_over_the_log() {
    let Some(place) = Place::with_log("report_figures") else { return };
    let page = place.report(&["--rows", "1000", "--show-passwords"]);
    let log = counted::sessions();
    let all = || log.values();
    let distinct = |count: usize| count as u64;
    assert!(log.len() > 600, "{} sessions", log.len());
    assert_eq!(figure(&page, "sessions"), distinct(log.len()));
    let addresses: BTreeSet<_> = all().filter_map(|session| session.address).collect();
    assert_eq!(figure(&page, "addresses"), distinct(addresses.len()));
    assert_eq!(figure(&page, "login attempts"), all().map(|session| session.logins).sum::<u64>());
    assert_eq!(figure(&page, "successful logins"), all().map(|session| session.successes).sum::<u64>());

    let countries = by(all(), |session| session.country.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(figure(&page, "countries"), distinct(countries.len()));
    // The map has a shape for each country, whose text has the name and the number.
    let map = section(&page, "map");
    let shapes: BTreeMap<&str, &str> = map
        .split("<title>")
        .skip(1)
        .map(|title| title.split(" sessions</title>").next().unwrap().rsplit_once(": ").unwrap())
        .collect();
    let drawn: u64 = shapes.values().map(|sessions| number(sessions)).sum();
    assert_eq!(drawn, countries.values().map(|(sessions, _)| sessions).sum::<u64>());
    for (code, name) in
        [("VN", "Vietnam"), ("US", "United States of America"), ("DE", "Germany"), ("SG", "Singapore")]
    {
        let expected = countries.get(code).map_or(0, |(sessions, _)| *sessions);
        assert_eq!(number(shapes[name]), expected, "{name}");
    }

    let networks = by(all(), |session| session.asn.into_iter().collect::<Vec<_>>());
    assert_eq!(figure(&page, "networks"), distinct(networks.len()));
    let listed: BTreeMap<i64, (u64, u64)> = rows(section(&page, "networks"))
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), (number(&row[5]), number(&row[7]))))
        .collect();
    assert_eq!(listed, networks);

    assert_counts(section(&page, "sensors"), by(all(), |session| vec![session.sensor.clone()]));
    assert_campaigns(&page, "Passwords", &log, |session| &session.passwords);
    assert_campaigns(&page, "Commands", &log, |session| &session.commands);

    let days = by(all(), |session| vec![session.time[..10].to_owned()]);
    let plotted = section(&page, "timeline").split("<title>").skip(1).map(|title| {
        let (day, counts) = title.split("</title>").next().unwrap().split_once(": ").unwrap();
        let (sessions, addresses) = counts.split_once(" sessions, ").unwrap();
        (day.to_owned(), (number(sessions), number(addresses.trim_end_matches(" addresses"))))
    });
    assert_eq!(plotted.collect::<BTreeMap<_, _>>(), days);
}

#[track_caller]
fn assert_campaigns(
    page: &str,
    title: &str,
    log: &BTreeMap<String, Session>,
    values: impl Fn(&Session) -> &BTreeSet<String>,
) {
    let part = section(page, "campaigns").split(&format!("<h3>{title}</h3>")).nth(1).unwrap();
    let part = part.split("<h3>").next().unwrap();
    let found: BTreeMap<String, [u64; 3]> = rows(part)
        .into_iter()
        .map(|row| (row[0].clone(), [number(&row[1]), number(&row[2]), number(&row[3])]))
        .collect();
    let mut expected: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for (value, (sessions, addresses)) in
        by(log.values(), |session| values(session).iter().cloned().collect())
    {
        let of_value = log.values().filter(|session| values(session).contains(&value));
        let networks: BTreeSet<i64> = of_value.filter_map(|session| session.asn).collect();
        let shown = if value.is_empty() { "empty".to_owned() } else { value };
        expected.insert(shown, [networks.len() as u64, addresses, sessions]);
    }
    // The tests of hostile texts cover values that are shown in another way.
    let is_plain = |value: &String| {
        value.chars().count() <= 120 && value.chars().all(|c| c.is_ascii_graphic() || c == ' ')
    };
    let plain = |all: BTreeMap<String, [u64; 3]>| -> BTreeMap<String, [u64; 3]> {
        all.into_iter().filter(|(value, _)| is_plain(value) && value.trim() == value).collect()
    };
    let expected = plain(expected);
    assert!(expected.len() > 5, "{title}: {expected:?}");
    assert_eq!(plain(found), expected, "{title}");
}

#[test]
fn a_period_limits_all_sections() {
    let Some(place) = Place::with_log("report_period") else { return };
    let page = place.report(&[
        "--since",
        "2025-05-06T00:00:00Z",
        "--until",
        "2025-05-08T06:00:00Z",
        "--rows",
        "1000",
    ]);
    let log = counted::sessions();
    let within: Vec<&Session> = log
        .values()
        .filter(|session| ("2025-05-06T00:00:00Z".."2025-05-08T06:00:00Z").contains(&session.time.as_str()))
        .collect();
    assert!(!within.is_empty() && within.len() < log.len());
    let all = || within.iter().copied();
    assert_eq!(figure(&page, "sessions"), within.len() as u64);
    assert_eq!(figure(&page, "login attempts"), all().map(|session| session.logins).sum::<u64>());
    assert_counts(section(&page, "sensors"), by(all(), |session| vec![session.sensor.clone()]));
    let plotted = section(&page, "timeline").split("<title>").skip(1);
    let sessions =
        plotted.map(|title| number(title.split_once(": ").unwrap().1.split_once(" sessions").unwrap().0));
    assert_eq!(sessions.sum::<u64>(), within.len() as u64);
    assert!(page.contains("from 2025-05-06 00:00 UTC to 2025-05-08 06:00 UTC"));
}

#[test]
fn addresses_that_moved_are_listed_with_both_networks() {
    let Some(mut place) = Place::with_log("report_movers") else { return };
    let unmoved = place.report(&[]);
    assert_eq!(rows(section(&unmoved, "movers")), Vec::<Vec<String>>::new());
    // A newer file says that the address is in another network.
    let (address, sessions): (String, i64) = {
        let row = place
            .client
            .query_one(
                "SELECT host(ip_address), session_count FROM cowrie_enrich.ip_inventory
                 WHERE current_asn = 14061 ORDER BY session_count DESC, ip_address LIMIT 1",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1))
    };
    let moves =
        format!("UPDATE cowrie_enrich.ip_inventory SET current_asn = 15169 WHERE ip_address = '{address}'");
    place.client.batch_execute(&moves).unwrap();
    let page = place.report(&[]);
    let movers = rows(section(&page, "movers"));
    assert_eq!(movers.len(), 1, "{movers:?}");
    assert_eq!(movers[0][0], address);
    assert!(movers[0][1].starts_with("AS14061 DigitalOcean"), "{movers:?}");
    assert!(movers[0][2].starts_with("AS15169 Google"), "{movers:?}");
    assert_eq!(number(&movers[0][3]), sessions.unsigned_abs());
}

#[test]
fn scanners_are_counted_apart_from_the_rest() {
    let Some(mut place) = Place::with_log("report_scanners") else { return };
    let marks = "UPDATE cowrie_enrich.ip_inventory SET enrichment = enrichment || '{\"greynoise\": {\"noise\": true}}'
                 WHERE current_asn = 14061";
    place.client.batch_execute(marks).unwrap();
    let page = place.report(&[]);
    let part = section(&page, "kinds").split("<h3 id=scanners>").nth(1).unwrap();
    let found: BTreeMap<String, (u64, u64)> =
        rows(part).into_iter().map(|row| (row[0].clone(), (number(&row[1]), number(&row[3])))).collect();
    let log = counted::sessions();
    let with_address = || log.values().filter(|session| session.address.is_some());
    let name = |session: &Session| {
        vec![(if session.asn == Some(14061) { "scanners" } else { "the rest" }).to_owned()]
    };
    assert_eq!(found, by(with_address(), name));
    assert!(found.contains_key("scanners"));
    let without_address = log.len() - with_address().count();
    assert!(without_address > 0);
    let note = format!("without a valid address, which are in none of these rows: {without_address}.");
    assert!(text(part).contains(&note), "{}", text(part));
}

#[test]
fn sessions_whose_download_stored_no_file_are_counted() {
    let Some(mut place) = Place::with_log("report_failed_downloads") else { return };
    let statement = "SELECT count(DISTINCT session) FROM downloads WHERE shasum IS NULL";
    let expected: i64 = place.client.query_one(statement, &[]).unwrap().get(0);
    assert!(expected > 0);
    let note = |page: &str| {
        let page = text(section(page, "campaigns"));
        page.split_once("so has no SHA-256: ").map(|(_, rest)| rest.split('.').next().unwrap().to_owned())
    };
    assert_eq!(note(&place.report(&[])), Some(expected.to_string()));
    assert_eq!(note(&place.report(&["--until", "2000-01-01T00:00:00Z"])), None);
}
