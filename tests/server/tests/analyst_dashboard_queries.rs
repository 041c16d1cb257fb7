//! The SQL of the dashboard for analysts, for any values of its variables: the columns fit the panel, a value is never SQL, and each
//! query reads the selected period only.

use std::collections::BTreeSet;

use postgres::types::Type;
use serde_json::Value as Json;
use server_tests::Session;
use server_tests::analyst::{
    SELECTED, attacked, dashboard, expanded, in_schema_enrich, nothing_selected, one, opened, opened_with,
    rows, selected,
};
use server_tests::grafana::{Dashboard, Selection, Value, values_of};

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
