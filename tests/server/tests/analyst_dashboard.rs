//! Tests of monitoring/grafana/analysts.json, the dashboard for analysts: each panel and variable runs with the rights of the
//! documented role on a real server. The expected numbers are counted from the list of attacks, without SQL.

use std::collections::{BTreeMap, BTreeSet};

use postgres::types::Type;
use serde_json::Value as Json;
use server_tests::documentation::{blocks_of, grants, page};
use server_tests::grafana::{Dashboard, Panel, Selection, Value, Variable, references, values_of};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::{Database, Session, database};
use yaml_rust2::{Yaml, YamlLoader};

const FILE: &str = "monitoring/grafana/analysts.json";
const PAGE: &str = "docs/dashboard.md";
const SELECTED: &str = "Selected sessions";

fn dashboard() -> Dashboard {
    Dashboard::read(FILE)
}

/// A session of the test. `time` is relative to 2024-05-01, in UTC.
struct Attack {
    key: &'static str,
    time: &'static str,
    sensor: u32,
    address: &'static str,
    country: Option<&'static str>,
    asn: Option<u32>,
    ip_type: Option<&'static str>,
}

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    attack("a", "01 00:10", 1, "8.8.8.8",     Some("US"), Some(15169), Some("VPN")),
    attack("b", "01 00:50", 2, "8.8.8.8",     Some("US"), Some(15169), None),
    attack("c", "01 01:00", 1, "8.8.8.9",     Some("US"), Some(15169), None),
    attack("d", "01 05:30", 1, "2001:4860::1", Some("US"), Some(15169), None),
    attack("e", "01 05:31", 3, "1.1.1.1",     Some("AU"), Some(13335), Some("TOR")),
    attack("f", "02 12:00", 3, "139.59.1.1",  Some("IN"), Some(14061), None),
    attack("g", "02 12:00", 3, "139.59.1.1",  Some("DE"), Some(14061), None),
    // A country without a network, a network without a country, neither.
    attack("h", "03 00:00", 1, "46.0.0.1",    Some("NL"), None,        None),
    attack("i", "03 00:01", 1, "47.0.0.1",    None,       Some(45102), None),
    attack("j", "03 00:02", 1, "48.0.0.1",    None,       None,        None),
    attack("k", "03 00:03", 2, "no address",  None,       None,        None),
    // Outside the period.
    attack("y", "09 00:00", 4, "8.8.8.8",     Some("US"), Some(15169), None),
    attack("z", "10 00:00", 4, "9.9.9.9",     Some("CH"), Some(19281), None),
];

const fn attack(
    key: &'static str,
    time: &'static str,
    sensor: u32,
    address: &'static str,
    country: Option<&'static str>,
    asn: Option<u32>,
    ip_type: Option<&'static str>,
) -> Attack {
    Attack { key, time, sensor, address, country, asn, ip_type }
}

fn in_period() -> Vec<&'static Attack> {
    ATTACKS.iter().filter(|attack| attack.time < "08").collect()
}

fn literal(value: Option<impl ToString>) -> String {
    value.map_or("NULL".to_owned(), |value| format!("'{}'", value.to_string().replace('\'', "''")))
}

/// Creates Cowrie's tables with the sessions, and a role with the documented rights of an analyst who uses the dashboard.
fn attacked() -> (Database<'static>, Session) {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(
        "SELECT attach_session_table('sessions', 'ip', 'starttime', trust_input => true);
         CREATE TABLE sensors (id serial PRIMARY KEY, ip varchar(255) NOT NULL);
         INSERT INTO sensors (id, ip) VALUES (1, 'trap-one'), (2, 'trap-two'), (3, 'trap''; DROP TABLE sessions; --');
         CREATE TABLE auth (session char(32) NOT NULL, success boolean NOT NULL, username varchar(100) NOT NULL,
             password varchar(100) NOT NULL, timestamp timestamp NOT NULL);
         CREATE TABLE input (session char(32) NOT NULL, timestamp timestamp NOT NULL, success boolean, input text NOT NULL);
         CREATE TABLE downloads (session char(32) NOT NULL, timestamp timestamp NOT NULL, url text NOT NULL, shasum varchar(64));
         INSERT INTO auth VALUES ('a', true, 'root', 'x''); --', '2024-05-01 00:10:01'), ('b', false, 'root', 'other', '2024-05-01 00:50:01');
         INSERT INTO input VALUES ('a', '2024-05-01 00:10:02', true, 'uname -a; <script>alert(1)</script>');
         INSERT INTO downloads VALUES ('a', '2024-05-01 00:10:03', 'http://198.51.100.1/x', 'abc')",
    );
    for attack in ATTACKS {
        let Attack { key, time, sensor, address, country, asn, ip_type } = attack;
        db.run(&format!(
            "INSERT INTO sessions (id, starttime, sensor, ip, snapshot_country, snapshot_asn, snapshot_ip_type)
             VALUES ('{key}', '2024-05-{time}:00', {sensor}, '{address}', {}, {}, {})",
            literal(*country),
            literal(*asn),
            literal(*ip_type)
        ));
    }
    // The organisation is a text from outside.
    db.run(
        "CALL fold_statistics();
         SELECT ensure_asn_inventory(14061, 'Quote '' and \" ${country} $__timeFrom() <b>', 'US', 'arin', true)",
    );
    let session = analyst(&mut db);
    (db, session)
}

/// Returns a connection of a new role with the grants of the two pages.
fn analyst(db: &mut Database<'_>) -> Session {
    let role = db.create_role("analyst");
    db.run(&grants("docs/analysis.md", "campaign_analyst", &role));
    let login = db.own_name("grafana");
    db.run(&format!("DROP ROLE IF EXISTS {login}"));
    let block =
        blocks_of(&page(PAGE)).into_iter().find(|block| block.sql.contains("CREATE ROLE cowrie_grafana"));
    let sql = block.expect("the page has the role of Grafana").sql;
    db.run(&sql.replace("cowrie_grafana", &login).replace("campaign_analyst", &role));
    db.session_as(&login)
}

/// Returns SQL for the schema in which the tests have the extension.
fn in_schema_enrich(sql: &str) -> String {
    sql.replace("cowrie_enrich.", "enrich.")
}

fn nothing_selected() -> Selection {
    Selection {
        values: BTreeMap::new(),
        from: "2024-05-01T00:00:00Z".to_owned(),
        to: "2024-05-08T00:00:00Z".to_owned(),
        interval: 3600,
        escapes_double_quotes: true,
    }
}

/// The options of a query variable: values, and texts for people.
fn options(session: &mut Session, variable: &Variable, selection: &Selection) -> Vec<(String, String)> {
    let sql = selection.expand(&variable.query).unwrap_or_else(|e| panic!("{}: {e}", variable.name));
    let rows = session
        .client
        .query(&in_schema_enrich(&sql), &[])
        .unwrap_or_else(|e| panic!("{}: {e:?}\n{sql}", variable.name));
    let mut options = Vec::new();
    for row in rows {
        let names: Vec<&str> = row.columns().iter().map(postgres::Column::name).collect();
        let value: String = match names.as_slice() {
            ["__value", "__text"] | [_] => row.get(0),
            _ => panic!("{}: columns {names:?}", variable.name),
        };
        options.push((value, row.get(row.len() - 1)));
    }
    options
}

/// Resolves the variables in their order, as Grafana does when a dashboard is opened. `chosen` replaces the defaults.
fn opened(session: &mut Session, chosen: &[(&str, Value)]) -> Selection {
    opened_with(session, chosen, nothing_selected())
}

fn opened_with(session: &mut Session, chosen: &[(&str, Value)], mut selection: Selection) -> Selection {
    for variable in dashboard().variables {
        let given = chosen.iter().find(|(name, _)| *name == variable.name).map(|(_, value)| value.clone());
        assert!(given.is_none() || !variable.skips_url, "{} cannot be chosen", variable.name);
        let value = match (given, variable.kind.as_str()) {
            (Some(value), _) => value,
            (None, "datasource") => continue,
            (None, "textbox") => Value::One(String::new()),
            (None, "query") => {
                let options = options(session, &variable, &selection);
                match variable.custom_all {
                    Some(all) => Value::All(all),
                    None => Value::One(options.first().map(|(value, _)| value.clone()).unwrap_or_default()),
                }
            }
            (None, kind) => panic!("{}: {kind}", variable.name),
        };
        selection.values.insert(variable.name, value);
    }
    selection
}

fn one(text: &str) -> Value {
    Value::One(text.to_owned())
}

fn expanded(panel: &Panel, selection: &Selection) -> String {
    in_schema_enrich(&selection.expand(&panel.sql).unwrap_or_else(|e| panic!("{}: {e}", panel.title)))
}

/// Returns the rows of a panel, columns joined by `|`.
fn rows(session: &mut Session, title: &str, selection: &Selection) -> Vec<String> {
    session.rows(&expanded(dashboard().panel(title), selection))
}

/// Returns how many sessions the panels show.
fn selected(session: &mut Session, selection: &Selection) -> usize {
    let row = rows(session, SELECTED, selection).remove(0);
    row.split('|').next().and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn dashboard_is_importable_as_it_is() {
    let Dashboard { json, variables, .. } = dashboard();
    assert!(json["id"].is_null() && json.get("__inputs").is_none() && json.get("__requires").is_none());
    assert!(json["schemaVersion"].as_i64() >= Some(39));
    let other: Json = serde_json::from_str(&page("monitoring/grafana/cowrie_enrich.json")).expect("JSON");
    assert_ne!(json["uid"], other["uid"]);
    assert_ne!(json["title"], other["title"]);
    let (mut numbers, mut titles, mut places) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in json["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(numbers.insert(panel["id"].as_i64().expect("a number")), "{title} has another's number");
        assert!(titles.insert((title, panel["type"].as_str())), "{title} twice");
        let at = &panel["gridPos"];
        let edge = |side: &str| at[side].as_i64().expect("a place");
        for (x, y) in (edge("x")..edge("x") + edge("w"))
            .flat_map(|x| (edge("y")..edge("y") + edge("h")).map(move |y| (x, y)))
        {
            assert!((0..24).contains(&x) && places.insert((x, y)), "{title} lies on another or outside");
        }
        let said = panel["description"].as_str().unwrap_or_default();
        assert!(panel["type"] == "row" || said.len() > 30, "{title} does not say what it shows");
    }
    // The data source is named in one variable.
    let named: Vec<_> = variables.iter().filter(|variable| variable.kind == "datasource").collect();
    assert_eq!(named.len(), 1);
    assert_eq!(
        (named[0].name.as_str(), named[0].query.as_str()),
        ("datasource", "grafana-postgresql-datasource")
    );
    let sources = values_of(&json, "datasource");
    assert!(sources.len() > 20);
    for source in sources {
        assert_eq!(source["uid"], "${datasource}");
        assert_eq!(source["type"], "grafana-postgresql-datasource");
    }
    assert_eq!(values_of(&json, "uid").into_iter().filter(|uid| *uid != "${datasource}").count(), 1);
}

#[test]
fn no_map_server_gets_a_request() {
    let dashboard = dashboard();
    let map = &dashboard.panel("Sessions by country").json["options"];
    assert_eq!(map["basemap"]["type"], "geojson");
    assert_eq!(map["basemap"]["config"]["src"], "public/maps/countries.geojson");
    let layers = map["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0]["location"]["mode"], "lookup");
    assert_eq!(layers[0]["location"]["gazetteer"], "public/gazetteer/countries.json");
    let text = page(FILE);
    for host in ["http:", "https:", "//"] {
        assert!(!text.contains(host), "{host}");
    }
}

#[test]
fn each_reference_is_to_a_variable_and_safe_in_sql() {
    let Dashboard { json, variables, panels } = dashboard();
    let hidden: BTreeSet<&str> =
        variables.iter().filter(|it| it.is_hidden).map(|it| it.name.as_str()).collect();
    let visible: BTreeSet<&str> =
        variables.iter().filter(|it| !it.is_hidden).map(|it| it.name.as_str()).collect();
    // Grafana resolves variables in the order of their references, so a variable may name only earlier ones.
    let mut earlier = BTreeSet::new();
    let mut used = BTreeSet::new();
    let texts = variables.iter().filter(|it| it.kind == "query").map(|it| (&it.name, &it.query));
    for (name, sql) in texts.chain(panels.iter().map(|panel| (&panel.title, &panel.sql))) {
        for reference in references(sql) {
            // Only text that the dashboard's own queries built is inserted without quotes. A link cannot set it.
            let format = if hidden.contains(reference.name.as_str()) { "raw" } else { "sqlstring" };
            assert_eq!(reference.format.as_deref(), Some(format), "{name}: {reference:?}");
            assert!(
                hidden.contains(reference.name.as_str()) || visible.contains(reference.name.as_str()),
                "{name}: {reference:?}"
            );
            let is_variable = variables.iter().any(|variable| variable.name == *name);
            assert!(!is_variable || earlier.contains(&reference.name), "{name}: {reference:?}");
            used.insert(reference.name);
        }
        earlier.insert(name.clone());
    }
    for variable in &variables {
        assert_eq!(variable.is_hidden, variable.skips_url, "{}", variable.name);
        assert!(
            used.contains(&variable.name) || variable.kind == "datasource",
            "{} is not used",
            variable.name
        );
        // A variable that depends on the period must follow it.
        let refresh = if variable.query.contains("$__timeFilter") { 2 } else { 1 };
        assert!(variable.kind == "textbox" || variable.json["refresh"] == refresh, "{}", variable.name);
    }
    let links = panels.iter().flat_map(|panel| &panel.links).cloned();
    let links: Vec<String> = links
        .chain(
            json["links"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|link| link["url"].as_str().unwrap_or_default().to_owned()),
        )
        .collect();
    assert!(links.len() >= 6, "{links:?}");
    for link in links {
        let (path, parameters) = link.split_once('?').expect("parameters");
        assert_eq!(path, format!("/d/{}", json["uid"].as_str().unwrap_or_default()));
        let mut set = BTreeSet::new();
        for parameter in parameters.split('&') {
            if let Some((name, _)) = parameter.strip_prefix("var-").and_then(|it| it.split_once('=')) {
                set.insert(name.to_owned());
            }
            for reference in references(parameter) {
                assert_eq!(reference.format.as_deref(), Some("queryparam"), "{link}");
                set.insert(reference.name);
            }
        }
        assert_eq!(set.iter().map(String::as_str).collect::<BTreeSet<_>>(), visible, "{link}");
    }
}

fn is_number(of: &Type) -> bool {
    [Type::INT4, Type::INT8, Type::FLOAT8, Type::NUMERIC].contains(of)
}

#[test]
fn columns_of_each_panel_fit_its_type() {
    let (_db, mut session) = attacked();
    let selection = opened(&mut session, &[("session", one("a")), ("address", one("8.8.8.8"))]);
    let mut kinds = BTreeSet::new();
    for panel in dashboard().panels {
        let sql = expanded(&panel, &selection);
        let statement =
            session.client.prepare(&sql).unwrap_or_else(|e| panic!("{}: {e:?}\n{sql}", panel.title));
        let columns = statement.columns();
        let names: Vec<&str> = columns.iter().map(postgres::Column::name).collect();
        let types: Vec<&Type> = columns.iter().map(postgres::Column::type_).collect();
        let title = &panel.title;
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{title}: {names:?}");
        assert_eq!(panel.format, if panel.kind == "timeseries" { "time_series" } else { "table" }, "{title}");
        match panel.kind.as_str() {
            "stat" => assert!(types.iter().all(|of| is_number(of)), "{title}: {types:?}"),
            "timeseries" => {
                assert!(names[0] == "time" && is_number(types[0]), "{title}: {names:?}");
                let texts = names.iter().zip(&types).filter(|(_, of)| ***of == Type::TEXT);
                assert!(texts.map(|(name, _)| *name).all(|name| name == "metric"), "{title}");
                assert!(types.iter().any(|of| **of == Type::INT8), "{title}");
                assert!(types.iter().all(|of| is_number(of) || **of == Type::TEXT), "{title}: {types:?}");
                let times: Vec<f64> = rows(&mut session, title, &selection)
                    .iter()
                    .map(|row| row.split('|').next().and_then(|it| it.parse().ok()).expect("seconds"))
                    .collect();
                assert!(times.is_sorted() && !times.is_empty(), "{title}: {times:?}");
            }
            "geomap" => {
                let layer = &panel.json["options"]["layers"][0];
                assert_eq!(layer["location"]["lookup"], names[0]);
                let size = layer["config"]["style"]["size"]["field"].as_str().expect("a field");
                let place = names.iter().position(|name| *name == size).expect("the field of the size");
                assert!(is_number(types[place]));
                for row in rows(&mut session, title, &selection) {
                    let code = row.split('|').next().unwrap_or_default();
                    assert!(code.len() == 2 && code.bytes().all(|c| c.is_ascii_uppercase()), "{row}");
                }
            }
            "piechart" => {
                assert!(types.len() == 2 && *types[0] == Type::TEXT && *types[1] == Type::INT8, "{title}");
            }
            "table" => assert!(types.len() > 1, "{title}"),
            other => panic!("{title}: {other}"),
        }
        // Names for people, and links, are of columns that the query returns.
        for field in values_of(&panel.json["fieldConfig"]["overrides"], "matcher") {
            let field = field["options"].as_str().expect("a name");
            assert!(names.contains(&field), "{title}: no column {field}");
        }
        for link in &panel.links {
            for field in
                link.split("${__data.fields.").skip(1).filter_map(|it| it.split_once(':')).map(|(it, _)| it)
            {
                assert!(names.contains(&field), "{title}: no column {field}");
            }
        }
        kinds.insert(panel.kind);
    }
    assert_eq!(
        kinds.iter().map(String::as_str).collect::<Vec<_>>(),
        ["geomap", "piechart", "stat", "table", "timeseries"]
    );
}

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
fn a_value_of_a_variable_is_never_sql() {
    let (mut db, mut session) = attacked();
    let all = selected_of_all(&mut session);
    let before = db.rows("SELECT * FROM sessions ORDER BY id");
    let hostile = [
        "'; DROP TABLE sessions; --",
        "' OR true OR '' = '",
        "\\'; DROP TABLE sessions; --",
        "\" OR true --",
        "${sessions:raw}",
        "US') OR (true",
        "0 OR true",
        "'::inet, 1) OR true --",
    ];
    for escapes_double_quotes in [true, false] {
        for value in hostile {
            for name in ["country", "network", "address", "sensor", "session"] {
                let value = if name == "sensor" { Value::Many(vec![value.to_owned()]) } else { one(value) };
                let chosen = [(name, value)];
                let selection = opened_with(
                    &mut session,
                    &chosen,
                    Selection { escapes_double_quotes, ..nothing_selected() },
                );
                let count = selected(&mut session, &selection);
                assert_eq!(count, if name == "session" { all } else { 0 }, "{chosen:?}");
                for panel in dashboard().panels {
                    let sql = expanded(&panel, &selection);
                    assert_eq!(session.try_rows(&sql).err(), None, "{}: {chosen:?}", panel.title);
                }
            }
            let selection = opened_with(
                &mut session,
                &[("table", one(value))],
                Selection { escapes_double_quotes, ..nothing_selected() },
            );
            assert_eq!(selected(&mut session, &selection), 0, "{value}");
        }
    }
    // Grafana expands macros also within a value, where the quotes of a macro end the literal. So the rights of the role must protect
    // the data.
    let selection = opened(&mut session, &[("country", one("$__timeFrom()"))]);
    let sql = expanded(dashboard().panel(SELECTED), &selection);
    assert_eq!(session.refused(&sql).code, "42601");
    for write in [
        "DELETE FROM sessions",
        "CREATE TABLE public.mine ()",
        "CREATE TEMP TABLE mine ()",
        "DELETE FROM enrich.ip_inventory",
    ] {
        assert_eq!(session.refused(write).code, "25006", "{write}");
    }
    session.run("SET default_transaction_read_only = off");
    for write in [
        "DELETE FROM sessions",
        "CREATE TABLE public.mine ()",
        "DELETE FROM enrich.ip_inventory",
        "COPY sessions TO PROGRAM 'true'",
    ] {
        assert_eq!(session.refused(write).code, "42501", "{write}");
    }
    assert_eq!(db.rows("SELECT * FROM sessions ORDER BY id"), before);
}

fn selected_of_all(session: &mut Session) -> usize {
    let selection = opened(session, &[]);
    selected(session, &selection)
}

/// Returns the nodes of a plan that read this table, with their conditions.
fn scans(plan: &Json, table: &str) -> Vec<String> {
    let mut found = Vec::new();
    if plan["Relation Name"] == table {
        let conditions =
            ["Index Cond", "Recheck Cond", "Filter"].map(|key| plan[key].as_str().unwrap_or_default());
        found.push(conditions.join(" "));
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        found.extend(scans(child, table));
    }
    found
}

#[test]
fn each_scan_of_sessions_is_limited_to_the_period() {
    let (_db, mut session) = attacked();
    let selection = opened(&mut session, &[("session", one("a")), ("address", one("8.8.8.8"))]);
    let Dashboard { variables, panels, .. } = dashboard();
    let queries = panels.iter().map(|panel| (&panel.title, &panel.sql));
    let mut scanned = 0;
    for (name, sql) in
        queries.chain(variables.iter().filter(|it| it.kind == "query").map(|it| (&it.name, &it.query)))
    {
        let sql = in_schema_enrich(&selection.expand(sql).expect("it expands"));
        let plan = session.rows(&format!("EXPLAIN (FORMAT JSON) {sql}")).concat();
        let plan: Json = serde_json::from_str(&plan).expect("a plan");
        for condition in scans(&plan[0]["Plan"], "sessions") {
            assert!(
                condition.contains("starttime >= '2024-05-01")
                    && condition.contains("starttime <= '2024-05-08"),
                "{name}: {condition}"
            );
            scanned += 1;
        }
    }
    assert_eq!(scanned, 13);
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

fn yaml(name: &str) -> Yaml {
    YamlLoader::load_from_str(&page(name)).unwrap_or_else(|e| panic!("{name}: {e}")).remove(0)
}

#[test]
fn examples_of_provisioning_fit_the_dashboard_and_the_page() {
    let sources = yaml("monitoring/grafana/provisioning/datasources/cowrie_enrich.yaml");
    let page = page(PAGE);
    assert_eq!(sources["apiVersion"].as_i64(), Some(1));
    let source = &sources["datasources"][0];
    assert_eq!(source["type"].as_str(), Some("grafana-postgresql-datasource"));
    let role = source["user"].as_str().expect("a user");
    assert!(page.contains(&format!("CREATE ROLE {role} LOGIN")));
    // Since Grafana 12 the name of the database belongs here.
    assert_eq!(source["jsonData"]["database"].as_str(), Some("honeypot"));
    assert!(source["database"].is_badvalue());
    // The password comes from the environment, and is not in the file.
    assert_eq!(source["secureJsonData"]["password"].as_str(), Some("$COWRIE_GRAFANA_PASSWORD"));
    assert!(page.contains("COWRIE_GRAFANA_PASSWORD"));
    let providers = yaml("monitoring/grafana/provisioning/dashboards/cowrie_enrich.yaml");
    assert_eq!(providers["apiVersion"].as_i64(), Some(1));
    let provider = &providers["providers"][0];
    assert_eq!(provider["type"].as_str(), Some("file"));
    let folder = provider["options"]["path"].as_str().expect("a path");
    assert!(page.contains(folder), "{folder}");
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
