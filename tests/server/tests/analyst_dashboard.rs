//! What the dashboard for analysts (monitoring/grafana/analysts.json) shows, with the rights of the documented role on a real server.
//! The expected numbers are counted from the list of attacks, without SQL. The suite `analyst_dashboard_file` tests the files, and
//! `analyst_dashboard_queries` the SQL.

use std::collections::{BTreeMap, BTreeSet};

use server_tests::Session;
use server_tests::analyst::{
    Attack, PAGE, SELECTED, attacked, dashboard, expanded, in_period, in_schema_enrich, nothing_selected,
    one, opened, opened_with, options, rows, selected,
};
use server_tests::documentation::{blocks_of, page};
use server_tests::grafana::{Dashboard, Selection, Value};
use server_tests::hosts::SUMMARIES;

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<BTreeSet<T>>().len()
}

fn has_address(attack: &Attack) -> bool {
    attack.address != "no address"
}

/// Returns the row of the panel of totals, counted from the list.
fn totals(attacks: &[&Attack]) -> String {
    let without = |is: fn(&Attack) -> bool| attacks.iter().filter(|it| is(it)).count();
    let numbers = [
        attacks.len(),
        distinct(attacks.iter().filter(|it| has_address(it)).map(|it| it.address)),
        distinct(attacks.iter().filter_map(|it| it.asn)),
        distinct(attacks.iter().filter_map(|it| it.country)),
        distinct(attacks.iter().map(|it| it.sensor)),
        without(|it| it.country.is_none()),
        without(|it| it.asn.is_none()),
    ];
    numbers.map(|number| number.to_string()).join("|")
}

/// Counts by a value, the most frequent first, and then by the value.
fn counted(values: impl Iterator<Item = String>) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(value, count)| (usize::MAX - count, value.clone()));
    counts
}

/// Returns the first columns of rows.
fn first(rows: Vec<String>, columns: usize) -> Vec<String> {
    rows.iter().map(|row| row.split('|').take(columns).collect::<Vec<_>>().join("|")).collect()
}

fn joined(counts: Vec<(String, usize)>) -> Vec<String> {
    counts.into_iter().map(|(value, count)| format!("{value}|{count}")).collect()
}

fn unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or("unknown".to_owned(), |value| value.to_string())
}

#[test]
fn values_are_those_of_an_independent_count() {
    let (_db, mut session) = attacked();
    let selection = opened(&mut session, &[]);
    let attacks = in_period();
    let mut panel = |title| rows(&mut session, title, &selection);
    assert_eq!(panel(SELECTED), [totals(&attacks)]);

    let countries = |with_unknown: bool| {
        let known = attacks.iter().filter(|it| with_unknown || it.country.is_some());
        counted(known.map(|it| unknown(it.country)))
    };
    let mut map = first(panel("Sessions by country"), 2);
    map.sort();
    let mut expected = joined(countries(false));
    expected.sort();
    assert_eq!(map, expected);
    assert_eq!(first(panel("Countries"), 2), joined(countries(true)));
    assert!(panel("Countries").contains(&"US|4|36.4|3|1".to_owned()));

    let mut networks = first(panel("Networks"), 6);
    networks.sort();
    assert_eq!(
        networks,
        [
            "13335|CLOUDFLARENET|HOSTING|ARIN|AU|1",
            "14061|Quote ' and \" ${country} $__timeFrom() <b>|HOSTING|ARIN|DE, IN|2",
            "15169|GOOGLE|HOSTING|ARIN|US|4",
            "45102|Alibaba US Technology Co., Ltd.|HOSTING|APNIC|NULL|1",
            "unknown|NULL|NULL|NULL|NL|3",
        ]
    );
    assert_eq!(
        panel("Types of addresses"),
        joined(counted(attacks.iter().map(|it| it.ip_type.unwrap_or("no type").to_owned())))
    );
    let types: usize = panel("Types of networks")
        .iter()
        .filter_map(|row| row.rsplit_once('|')?.1.parse::<usize>().ok())
        .sum();
    assert_eq!(types, attacks.len());
    assert!(panel("Types of networks").contains(&"no network|3".to_owned()));

    let addresses: BTreeMap<String, String> = panel("Addresses")
        .into_iter()
        .filter_map(|row| row.split_once('|').map(|(address, rest)| (address.to_owned(), rest.to_owned())))
        .collect();
    assert_eq!(addresses.len(), distinct(attacks.iter().map(|it| it.address)));
    assert_eq!(
        addresses["8.8.8.8"],
        "US|15169|GOOGLE|NULL|f|2|2024-05-01 00:10:00|2024-05-01 00:50:00|STABLE"
    );
    assert!(addresses["unknown"].starts_with("NULL|NULL|NULL|NULL|NULL|1|"), "{addresses:?}");

    let hours = counted(attacks.iter().map(|it| it.time[..5].to_owned()));
    assert_eq!(panel("Sessions and addresses").len(), hours.len());
    assert_eq!(panel("Sessions and addresses")[0], "1714521600|2|1");
    for title in ["By country", "By sensor"] {
        let sum: usize =
            panel(title).iter().filter_map(|row| row.rsplit_once('|')?.1.parse::<usize>().ok()).sum();
        assert_eq!(sum, attacks.len(), "{title}");
    }
    assert!(panel("By country").contains(&"1714694400|unknown|3".to_owned()));
    assert!(panel("By sensor").contains(&"1714521600|trap-two (2)|1".to_owned()));

    let newest = panel("Newest sessions");
    assert_eq!(newest.len(), attacks.len());
    assert_eq!(newest[0], "2024-05-03 00:03:00|k|trap-two (2)|unknown|NULL|NULL|NULL|NULL");
    assert!(
        newest.last().is_some_and(|row| row.ends_with("|a|trap-one (1)|8.8.8.8|US|15169|GOOGLE|VPN")),
        "{newest:?}"
    );
    // Nothing is selected, so the panels below show nothing.
    for title in [
        "Profile of the selected address",
        "Selected session",
        "Logins, commands and downloads of the selected session",
    ] {
        assert!(panel(title).is_empty(), "{title}");
    }
}

#[test]
fn an_analyst_goes_from_a_country_to_a_network_to_an_address_to_a_session() {
    let (_db, mut session) = attacked();
    type Keeps = fn(&Attack) -> bool;
    let many = |values: &[&str]| Value::Many(values.iter().map(|&value| value.to_owned()).collect());
    let steps: &[(&[(&str, Value)], Keeps)] = &[
        (&[("country", one("US"))], |it| it.country == Some("US")),
        (&[("country", one("us"))], |it| it.country == Some("US")),
        (&[("country", one("unknown"))], |it| it.country.is_none()),
        (&[("network", one("15169"))], |it| it.asn == Some(15169)),
        (&[("network", one("AS14061"))], |it| it.asn == Some(14061)),
        (&[("network", one("unknown"))], |it| it.asn.is_none()),
        (&[("country", one("DE")), ("network", one("14061"))], |it| it.key == "g"),
        (&[("address", one("8.8.8.8"))], |it| it.address == "8.8.8.8"),
        (&[("address", one("::ffff:8.8.8.8"))], |it| it.address == "8.8.8.8"),
        (&[("address", one("unknown"))], |it| !has_address(it)),
        (&[("sensor", many(&["3"]))], |it| it.sensor == 3),
        (&[("sensor", many(&["1", "2"]))], |it| it.sensor < 3),
        (&[("country", one("US")), ("sensor", many(&["2"]))], |it| it.key == "b"),
        (&[("country", one("ZZ"))], |_| false),
    ];
    for (chosen, keeps) in steps {
        let selection = opened(&mut session, chosen);
        let expected: Vec<&Attack> = in_period().into_iter().filter(|attack| keeps(attack)).collect();
        assert_eq!(rows(&mut session, SELECTED, &selection), [totals(&expected)], "{chosen:?}");
        let mut keys: Vec<String> = rows(&mut session, "Newest sessions", &selection)
            .iter()
            .filter_map(|row| row.split('|').nth(1).map(str::to_owned))
            .collect();
        keys.sort();
        assert_eq!(keys, expected.iter().map(|it| it.key).collect::<Vec<_>>(), "{chosen:?}");
    }

    let selection = opened(&mut session, &[("address", one("8.8.8.8")), ("session", one("a"))]);
    let profile = rows(&mut session, "Profile of the selected address", &selection);
    assert!(profile.contains(&"session_count|3".to_owned()), "{profile:?}");
    let row = rows(&mut session, "Selected session", &selection);
    for said in ["ip|8.8.8.8", "snapshot_country|US", "snapshot_ip_type|VPN"] {
        assert!(row.contains(&said.to_owned()), "{row:?}");
    }
    assert_eq!(
        rows(&mut session, "Logins, commands and downloads of the selected session", &selection),
        [
            "2024-05-01 00:10:01|login|root / x'); --|t",
            "2024-05-01 00:10:02|command|uname -a; <script>alert(1)</script>|t",
            "2024-05-01 00:10:03|download|http://198.51.100.1/x abc|NULL",
        ]
    );
    // Sensors have the names of Cowrie's table. A sensor without sessions in the period is not offered.
    let sensor = dashboard().variables.into_iter().find(|it| it.name == "sensor").expect("a variable");
    let texts: BTreeSet<String> =
        options(&mut session, &sensor, &selection).into_iter().map(|(_, text)| text).collect();
    let names = ["trap-one (1)", "trap-two (2)", "trap'; DROP TABLE sessions; -- (3)"];
    assert_eq!(texts, names.map(str::to_owned).into());
}

#[test]
fn every_attached_table_that_the_role_may_read_can_be_chosen() {
    let (mut db, mut session) = attacked();
    let role = session.one("SELECT current_user");
    // A table with other columns, a partitioned table with names that need quotes, a table that the role may not read.
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("x", Some("1.1.1.1")), ("y", None)]));
    db.run(&format!(
        r#"CREATE SCHEMA "Other ""Site""";
         CREATE TABLE "Other ""Site"""."My 'Sessions'" ("the ""Key""" bigint PRIMARY KEY, "At" timestamptz, sensor text,
             "Source ""IP""" inet);
         CREATE TABLE hidden (id int PRIMARY KEY, started timestamptz, ip inet);
         SELECT attach_session_table('"Other ""Site"""."My ''Sessions''"', 'Source "IP"', 'At');
         SELECT attach_session_table('hidden', 'ip', 'started');
         INSERT INTO "Other ""Site"""."My 'Sessions'" VALUES
             (1, '2024-05-01 02:00+02', 'it''s "one"; --', '8.8.8.8'), (2, '2024-05-01 01:00+00', NULL, '48.0.0.1'),
             (3, '2024-05-01 01:00+00', '(all', '8.8.8.8'), (4, '2024-05-08 01:00+00', 'late', '8.8.8.8');
         GRANT USAGE ON SCHEMA "Other ""Site""" TO {role};
         GRANT SELECT ON session_summaries, "Other ""Site"""."My 'Sessions'" TO {role}"#
    ));
    let Dashboard { variables, panels, .. } = dashboard();
    let variable = |name: &str| variables.iter().find(|it| it.name == name).expect("a variable");
    let tables: Vec<String> = options(&mut session, variable("table"), &nothing_selected())
        .into_iter()
        .map(|(value, _)| value)
        .collect();
    let other = r#"Other "Site".My 'Sessions'"#;
    assert_eq!(tables, [other, "public.session_summaries", "public.sessions"]);
    let show_all = |session: &mut Session, selection: &Selection| {
        for panel in &panels {
            let sql = expanded(panel, selection);
            assert_eq!(session.try_rows(&sql).err(), None, "{}", panel.title);
        }
    };

    let selection = opened(&mut session, &[("table", one("public.session_summaries"))]);
    assert_eq!(rows(&mut session, SELECTED, &selection), ["2|1|1|1|1|1|1"]);
    show_all(&mut session, &selection);

    for escapes_double_quotes in [true, false] {
        let plain = Selection { escapes_double_quotes, ..nothing_selected() };
        let of = |session: &mut Session, chosen: &[(&str, Value)]| {
            let chosen = [&[("table", one(other))], chosen].concat();
            opened_with(session, &chosen, plain.clone())
        };
        let selection = of(&mut session, &[]);
        assert_eq!(rows(&mut session, SELECTED, &selection), ["3|2|1|1|3|1|1"]);
        let sensors: Vec<String> = options(&mut session, variable("sensor"), &selection)
            .into_iter()
            .map(|(value, _)| value)
            .collect();
        assert_eq!(sensors.iter().collect::<BTreeSet<_>>().len(), 3, "{sensors:?}");
        for sensor in sensors {
            let selection =
                of(&mut session, &[("sensor", Value::Many(vec![sensor.clone()])), ("session", one("1"))]);
            assert_eq!(selected(&mut session, &selection), 1, "{sensor}");
            let shown = rows(&mut session, "Selected session", &selection);
            assert!(shown.contains(&"sensor|it's \"one\"; --".to_owned()), "{shown:?}");
            show_all(&mut session, &selection);
        }
    }

    // A role that may read no table sees why in the list, and empty panels.
    db.run(&format!("REVOKE SELECT ON sessions FROM {}", granted_role(&role)));
    db.run(&format!(r#"REVOKE SELECT ON session_summaries, "Other ""Site"""."My 'Sessions'" FROM {role}"#));
    let mut session = db.session_as(&role);
    let selection = opened(&mut session, &[]);
    let texts = options(&mut session, variable("table"), &selection);
    assert_eq!(texts[0].0, "no attached table that this role may read");
    assert_eq!(rows(&mut session, SELECTED, &selection), ["0|0|0|0|0|0|0"]);
    show_all(&mut session, &selection);
}

/// Returns the role whose rights a login role of `analyst` inherits.
fn granted_role(login: &str) -> String {
    login.replace("grafana", "analyst")
}

#[test]
fn the_page_describes_each_panel_and_its_example_is_the_sql_of_a_panel() {
    let (_db, mut session) = attacked();
    let page = page(PAGE);
    for panel in dashboard().panels {
        assert!(page.contains(&format!("| {} |", panel.title)), "{PAGE} has no row about {}", panel.title);
    }
    for variable in dashboard().variables.iter().filter(|it| !it.is_hidden) {
        let label = variable.json["label"].as_str().expect("a label");
        assert!(page.contains(&format!("| {label} |")), "{PAGE} has no row about {label}");
    }
    let example =
        blocks_of(&page).into_iter().find(|block| block.sql.contains("asn_inventory")).expect("an example");
    let example = in_schema_enrich(
        &example.sql.replace("now() - interval '7 days'", "'2024-05-01'").replace("now()", "'2024-05-08'"),
    );
    let selection = opened(&mut session, &[("country", one("US"))]);
    let expected = first(rows(&mut session, "Networks", &selection), 7);
    assert_eq!(first(session.rows(&example), 7), expected);
    assert!(!expected.is_empty());
}
