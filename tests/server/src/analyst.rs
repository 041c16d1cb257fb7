//! monitoring/grafana/analysts.json, the dashboard for analysts, on a server: the sessions that its tests expect it to show, a
//! connection with the rights of the documented role, and the SQL of its panels and variables as Grafana would send it.

use std::collections::BTreeMap;

use crate::documentation::{blocks_of, grants, page};
use crate::grafana::{Dashboard, Panel, Selection, Value, Variable};
use crate::hosts::COWRIE;
use crate::{Database, Session, database};

pub const FILE: &str = "monitoring/grafana/analysts.json";

pub const PAGE: &str = "docs/dashboard.md";

pub const SELECTED: &str = "Selected sessions";

pub fn dashboard() -> Dashboard {
    Dashboard::read(FILE)
}

/// A session of the test. `time` is relative to 2024-05-01, in UTC.
pub struct Attack {
    pub key: &'static str,
    pub time: &'static str,
    pub sensor: u32,
    pub address: &'static str,
    pub country: Option<&'static str>,
    pub asn: Option<u32>,
    pub ip_type: Option<&'static str>,
}

#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
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

pub fn in_period() -> Vec<&'static Attack> {
    ATTACKS.iter().filter(|attack| attack.time < "08").collect()
}

fn literal(value: Option<impl ToString>) -> String {
    value.map_or("NULL".to_owned(), |value| format!("'{}'", value.to_string().replace('\'', "''")))
}

/// Creates Cowrie's tables with the sessions, and a role with the documented rights of an analyst who uses the dashboard.
pub fn attacked() -> (Database<'static>, Session) {
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
pub fn in_schema_enrich(sql: &str) -> String {
    sql.replace("cowrie_enrich.", "enrich.")
}

pub fn nothing_selected() -> Selection {
    Selection {
        values: BTreeMap::new(),
        from: "2024-05-01T00:00:00Z".to_owned(),
        to: "2024-05-08T00:00:00Z".to_owned(),
        interval: 3600,
        escapes_double_quotes: true,
    }
}

/// The options of a query variable: values, and texts for people.
pub fn options(session: &mut Session, variable: &Variable, selection: &Selection) -> Vec<(String, String)> {
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
pub fn opened(session: &mut Session, chosen: &[(&str, Value)]) -> Selection {
    opened_with(session, chosen, nothing_selected())
}

pub fn opened_with(session: &mut Session, chosen: &[(&str, Value)], mut selection: Selection) -> Selection {
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

pub fn one(text: &str) -> Value {
    Value::One(text.to_owned())
}

pub fn expanded(panel: &Panel, selection: &Selection) -> String {
    in_schema_enrich(&selection.expand(&panel.sql).unwrap_or_else(|e| panic!("{}: {e}", panel.title)))
}

/// Returns the rows of a panel, columns joined by `|`.
pub fn rows(session: &mut Session, title: &str, selection: &Selection) -> Vec<String> {
    session.rows(&expanded(dashboard().panel(title), selection))
}

/// Returns how many sessions the panels show.
pub fn selected(session: &mut Session, selection: &Selection) -> usize {
    let row = rows(session, SELECTED, selection).remove(0);
    row.split('|').next().and_then(|count| count.parse().ok()).expect("a number")
}
