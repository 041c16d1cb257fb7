//! The file of the dashboard for analysts, and the examples that install it. Grafana imports them as they are, and no panel, link or
//! map names another host.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use server_tests::analyst::{FILE, PAGE, dashboard};
use server_tests::documentation::page;
use server_tests::grafana::{Dashboard, references, values_of};
use yaml_rust2::{Yaml, YamlLoader};

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
        assert!(titles.insert(title), "{title} twice");
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

/// Draws the places of the panels, with three characters for a column of Grafana's grid and a line for two rows of the grid.
fn drawn(json: &Json) -> String {
    let mut canvas: Vec<Vec<char>> = Vec::new();
    for panel in json["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row") {
        let edge =
            |side: &str| usize::try_from(panel["gridPos"][side].as_u64().expect("a place")).expect("small");
        let (left, right) = (edge("x") * 3, (edge("x") + edge("w")) * 3);
        let (top, bottom) = (edge("y") / 2, (edge("y") + edge("h")) / 2);
        if canvas.len() <= bottom {
            canvas.resize(bottom + 1, vec![' '; 24 * 3 + 1]);
        }
        for (line, characters) in canvas.iter_mut().enumerate().take(bottom + 1).skip(top) {
            for (column, character) in characters.iter_mut().enumerate().take(right + 1).skip(left) {
                let (is_side, is_end) = (column == left || column == right, line == top || line == bottom);
                *character = match (is_side, is_end) {
                    (true, true) => '+',
                    (true, false) => '|',
                    (false, true) => '-',
                    (false, false) => continue,
                }
            }
        }
        let mut place = (top + 1, left + 2);
        for word in panel["title"].as_str().expect("a title").split(' ') {
            if place.1 + word.len() >= right {
                place = (place.0 + 1, left + 2);
            }
            for letter in word.chars() {
                canvas[place.0][place.1] = letter;
                place.1 += 1;
            }
            place.1 += 1;
        }
    }
    let lines = canvas.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_has_a_drawing_of_the_panels() {
    let drawn = drawn(&dashboard().json);
    assert!(
        page(PAGE).contains(&format!("```text\n{drawn}\n```")),
        "{PAGE} has no drawing like this:\n{drawn}"
    );
}
