//! Tests of monitoring/: alerts, the dashboard and queries for exporters, against a real server. A real Prometheus
//! scrapes the server if it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cowrie_enrich_engine::metrics::declarations;
use cowrie_enrich_test_mmdb::types::TypesFile;
use cowrie_enrich_upstreams::Behaviour;
use postgres::Row;
use postgres::types::Type;
use serde_json::Value;
use server_tests::cymru::{Lab, member, members, queue, wait_for_the_queue};
use server_tests::database::{cluster_with_world, fresh_database};
use server_tests::hosts::COWRIE;
use server_tests::installation::workspace;
use server_tests::prometheus::{Prometheus, Sample, free_port, tool};
use server_tests::world::crowd_member;
use server_tests::{Database, Options, Session, wait_until};
use yaml_rust2::{Yaml, YamlLoader};

const CREATED: &str = "asn_inventory_records_created_total";
const DURATION: &str = "asn_inventory_operation_duration_seconds";

fn file(name: &str) -> PathBuf {
    workspace().join("monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|e| panic!("could not read {name}: {e}"))
}

fn yaml(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("no text: {yaml:?}")).to_owned()
}

fn list(yaml: &Yaml) -> Vec<Yaml> {
    yaml.as_vec().cloned().unwrap_or_default()
}

/// An alert or a recording rule.
struct Rule {
    name: String,
    is_alert: bool,
    expression: String,
    severity: Option<String>,
    annotations: BTreeMap<String, String>,
}

fn rules() -> Vec<Rule> {
    let groups = list(&yaml("prometheus/alerts.yml")["groups"]);
    let rules = groups.iter().flat_map(|group| list(&group["rules"]));
    rules
        .map(|rule| {
            let annotations = rule["annotations"].as_hash().into_iter().flatten();
            let is_alert = !rule["alert"].is_badvalue();
            Rule {
                name: text(&rule[if is_alert { "alert" } else { "record" }]),
                is_alert,
                expression: text(&rule["expr"]),
                severity: rule["labels"]["severity"].as_str().map(str::to_owned),
                annotations: annotations.map(|(name, said)| (text(name), text(said))).collect(),
            }
        })
        .collect()
}

/// A query of a panel.
#[derive(Debug)]
struct Target {
    panel: String,
    expression: String,
    legend: String,
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/cowrie_enrich.json")).expect("the dashboard is JSON")
}

fn targets() -> Vec<Target> {
    let dashboard = dashboard();
    let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut targets = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            targets.push(Target {
                panel: said(&panel["title"]),
                expression: said(&target["expr"]),
                legend: said(&target["legendFormat"]),
            });
        }
    }
    assert!(targets.len() > 40, "{} queries found", targets.len());
    targets
}

/// Returns the expression as Grafana sends it with all servers and databases selected.
fn with_variables(expression: &str) -> String {
    let put = expression
        .replace("$instance", ".*")
        .replace("$database", ".*")
        .replace("$__rate_interval", "5m")
        .replace("$__range", "1h");
    assert!(!put.contains('$'), "a variable that nobody knows: {put}");
    put
}

#[test]
fn alerts_fire_above_their_thresholds_and_not_just_below() {
    let Some(promtool) = tool("promtool") else { return };
    let run = |arguments: &[&str]| {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(file("prometheus"))
            .output()
            .expect("promtool runs");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.success(), said.concat())
    };
    for arguments in [
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"][..],
        &["check", "config", "scrape.yml"],
        &["test", "rules", "alerts_test.yml", "alerts_days_test.yml"],
    ] {
        let (is_good, said) = run(arguments);
        assert!(is_good, "promtool {arguments:?}:\n{said}");
    }
    let tests = read("prometheus/alerts_test.yml") + &read("prometheus/alerts_days_test.yml");
    for alert in rules().iter().filter(|rule| rule.is_alert) {
        let fires = format!("alertname=\"{}\", alertstate=\"firing\"", alert.name);
        assert!(tests.contains(&fires), "{} is never seen to fire", alert.name);
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_it_is_told_what_to_do() {
    let page = std::fs::read_to_string(workspace().join("docs/operations.md")).expect("the page");
    let is_alert = |name: &str| ["ASN", "CowrieLoad", "Enrich"].iter().any(|prefix| name.starts_with(prefix));
    let told: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("#### ")).filter(|name| is_alert(name)).collect();
    let mut alerts = BTreeSet::new();
    let rules = rules();
    for rule in rules.iter().filter(|rule| rule.is_alert) {
        let Rule { name, annotations, .. } = rule;
        let severity = rule.severity.as_deref().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        assert!(annotations["summary"].len() > 20 && annotations["description"].len() > 60, "{name}");
        assert_eq!(annotations["runbook"], format!("docs/operations.md#{}", name.to_lowercase()));
        assert!(is_alert(name) && alerts.insert(name.as_str()), "{name}");
    }
    assert_eq!(alerts, told);
    assert!(alerts.len() > 15, "{alerts:?}");
}

#[test]
fn dashboard_is_importable_as_it_is() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null() && dashboard.get("__inputs").is_none());
    assert!(dashboard["schemaVersion"].as_i64() >= Some(39));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let kind = |name: &str| {
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.map(|variable| variable["type"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(kind("datasource").as_deref(), Some("datasource"));
    assert_eq!(kind("database").as_deref(), Some("query"));
    let (mut numbers, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = &panel["title"];
        assert!(numbers.insert(panel["id"].as_i64()), "{title} has another's number");
        let at = &panel["gridPos"];
        let edge = |side: &str| at[side].as_i64().expect("a place");
        for (x, y) in (edge("x")..edge("x") + edge("w"))
            .flat_map(|x| (edge("y")..edge("y") + edge("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && places.insert((x, y)), "{title} lies on another or outside");
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{title}");
        }
    }
}

/// Names with their labels and the values of each label, from the text format.
type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn known(text: &str) -> Known {
    let mut known = Known::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let labels_of = known.entry(name.to_owned()).or_default();
        for label in labels.trim_end_matches('}').split_terminator(',') {
            let (label, value) = label.split_once('=').expect("a label's value");
            labels_of.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    known
}

/// Returns the errors in the metrics and labels of an expression.
fn strangers(expression: &str, known: &Known, recorded: &BTreeSet<String>) -> Vec<String> {
    let given = ["job", "instance"];
    let mut wrong = Vec::new();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = expression;
    let mut named = Vec::new();
    while let Some(start) = rest.find(|c: char| is_part(c) || c == '"') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let (word, after) = rest.split_at(rest.find(|c: char| !is_part(c)).unwrap_or(rest.len()));
        rest = after;
        if ["by", "on", "group_left", "ignoring"].contains(&word) {
            let Some((labels, after)) =
                after.trim_start().strip_prefix('(').and_then(|it| it.split_once(')'))
            else {
                continue;
            };
            rest = after;
            named.extend(labels.split(',').map(|label| label.trim().to_owned()).filter(|it| !it.is_empty()));
        } else if word.contains(':') {
            if !recorded.contains(word) {
                wrong.push(format!("nobody records {word}"));
            }
        } else if word.starts_with("enrich_") || word.starts_with("asn_") {
            let Some(labels) = known.get(word) else {
                wrong.push(format!("no metric {word}"));
                continue;
            };
            let Some((matchers, after)) = after.strip_prefix('{').and_then(|it| it.split_once('}')) else {
                continue;
            };
            rest = after;
            for matcher in matchers.split(',') {
                let (label, value) = matcher.split_once('=').expect("a matcher");
                let label = label.trim();
                let values = value.trim_start_matches('~').trim_matches('"').split('|');
                if given.contains(&label) {
                    continue;
                }
                for value in values.filter(|value| !value.starts_with('$')) {
                    if !labels.get(label).is_some_and(|values| values.contains(value)) {
                        wrong.push(format!("no {label}=\"{value}\" of {word}"));
                    }
                }
                if !labels.contains_key(label) {
                    wrong.push(format!("no label {label} of {word}"));
                }
            }
        }
    }
    for label in named {
        if !given.contains(&label.as_str()) && !known.values().any(|labels| labels.contains_key(&label)) {
            wrong.push(format!("no label {label}"));
        }
    }
    wrong
}

fn use_a_list_of_types(lab: &Lab, db: &mut Database<'_>) {
    let path = lab.cluster.files().join("types.mmdb");
    TypesFile::new().list("exits", "TOR", 1_700_000_000).entry("exits", "192.0.2.1/32").write(&path);
    lab.reconfigure(&[&format!("ip_type_databases = '{}'", path.display())]);
    db.another().run("SELECT reload_mmdb()");
}

/// Makes the server do all kinds of work. Networks are created by calls, by sessions and by a worker. There are hits,
/// updates, answers that serve several addresses, and a refused lookup.
fn work(lab: &Lab, db: &mut Database<'_>) {
    lab.whois.behave(Behaviour::normal());
    use_a_list_of_types(lab, db);
    COWRIE.create_attached(db);
    // One trigger call in 31 of a session is timed.
    for n in 0..64 {
        let address = crowd_member(n % 40);
        db.run(&COWRIE.insert(&[(&format!("s{n}"), Some(&address))]));
    }
    db.run("SELECT ensure_asn_inventory(64500, 'By hand', 'DE', 'ripencc')");
    db.run("SELECT ensure_asn_inventory(64500, 'By hand, corrected', 'DE', 'ripencc', true)");
    db.run("SELECT ensure_asn_inventory(64500)");
    queue(db, &[members(0..40), vec![member(3, 8), member(4, 9)]].concat());
    wait_for_the_queue(db);
    db.run("CALL fold_statistics()");
}

/// Starts a server with workers, and with the metrics endpoint on this port.
fn watched(name: &str, port: u16) -> Lab {
    let listen = format!("cowrie_enrich.metrics_listen = '127.0.0.1:{port}'");
    Lab::start(Options::named(name).with_worker().conf(&listen))
}

#[test]
fn every_metric_that_a_rule_or_a_panel_names_is_there_with_these_labels() {
    let lab = Lab::start(Options::named("monitoring-names").with_worker());
    let mut db = lab.database();
    work(&lab, &mut db);
    let of_worker = "SELECT count(*) FROM enrich_metrics WHERE name = 'enrich_worker_heartbeat_age_seconds'";
    wait_until("its worker is there", || db.number(of_worker), |workers| *workers > 0);
    let known =
        known(&db.client.query_one("SELECT prometheus_metrics()", &[]).expect("text").get::<_, String>(0));
    let rules = rules();
    let recorded: BTreeSet<String> =
        rules.iter().filter(|rule| !rule.is_alert).map(|rule| rule.name.clone()).collect();
    let mut wrong = Vec::new();
    for rule in &rules {
        wrong.extend(
            strangers(&rule.expression, &known, &recorded).iter().map(|it| format!("{}: {it}", rule.name)),
        );
    }
    for target in targets() {
        let strangers = strangers(&target.expression, &known, &recorded);
        wrong.extend(strangers.iter().map(|it| format!("{}: {it}", target.panel)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // The check finds errors.
    for (expression, found) in [
        ("rate(enrich_nothing_total[5m])", "no metric enrich_nothing_total"),
        ("enrich_launcher_up{nonsense=\"1\"}", "no label nonsense of enrich_launcher_up"),
        ("enrich_queue_depth{state=\"asleep\"}", "no state=\"asleep\" of enrich_queue_depth"),
        ("sum by (nonsense) (enrich_queue_depth)", "no label nonsense"),
        ("instance:nothing:rate5m > 1", "nobody records instance:nothing:rate5m"),
    ] {
        let strangers = strangers(expression, &known, &recorded);
        assert!(strangers.iter().any(|it| it == found), "{expression}: {strangers:?}");
    }
    // Every family is in a panel or a rule.
    let said: String = targets()
        .into_iter()
        .map(|target| target.expression)
        .chain(rules.into_iter().map(|rule| rule.expression))
        .collect();
    let unseen: Vec<_> =
        declarations::ALL.iter().map(|it| it.prometheus).filter(|name| !said.contains(name)).collect();
    assert_eq!(unseen, ["enrich_exporter_up"], "who scrapes the exporter sees that it runs");
}

/// Returns the number of networks by country, from the database.
fn by_country(db: &mut Session) -> BTreeMap<String, f64> {
    let rows = db.rows(
        "SELECT COALESCE(organization_country, 'unknown'), count(*) FROM enrich.asn_inventory GROUP BY 1",
    );
    let pair =
        |row: &String| row.split_once('|').map(|(name, n)| (name.to_owned(), n.parse().expect("a number")));
    rows.iter().map(|row| pair(row).expect("two columns")).collect()
}

#[track_caller]
fn assert_near(what: &str, value: f64, expected: f64, slack: f64) {
    assert!(
        value >= expected * (1.0 - 1e-9) && value <= expected * (1.0 + slack),
        "{what}: {value}, expected {expected} and at most {slack} of it more"
    );
}

/// Returns the quantile of cumulative buckets by linear interpolation, as Prometheus defines it.
fn quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
    let all = buckets.last().expect("a bucket").1;
    let rank = q * all;
    let place = buckets.iter().position(|(_, count)| *count >= rank).expect("the last has all");
    let (above, count) = buckets[place];
    let (below, before) = if place == 0 { (0.0, 0.0) } else { buckets[place - 1] };
    below + (above - below) * (rank - before) / (count - before)
}

#[test]
fn prometheus_scrapes_a_real_run_and_the_seed_queries_are_right() {
    let Some(program) = tool("prometheus") else { return };
    let port = free_port();
    let lab = watched("monitoring-seed", port);
    let mut db = lab.database();
    let prometheus = Prometheus::start(&program, "seed", port, &file("prometheus/alerts.yml"));
    let scraped = |what: &str, expression: &str, expected: f64| {
        wait_until(what, || prometheus.number(expression), |seen| *seen == Some(expected));
    };
    let created = format!("sum({CREATED})");
    let operations = format!("{DURATION}_count{{operation=\"create\"}}");
    scraped("it sees that nothing was created", &operations, 0.0);

    // Creates a network for each country first, so that each set of labels has a sample. rate() ignores increases
    // before the first sample.
    let countries = ["CN", "RU", "US", "VN", "BR", "IN", "NL", "DE", "FR", "GB", "KR", "JP", "IT"];
    let ensure = |db: &mut Session, first: usize, networks: usize, country: &str| {
        db.run(&format!(
            "SELECT enrich.ensure_asn_inventory(n, 'Net ' || n, '{country}')
             FROM generate_series({first}, {first} + {networks} - 1) n"
        ));
    };
    for (n, country) in countries.iter().enumerate() {
        ensure(&mut db, 1000 * (n + 1), 1, country);
    }
    scraped("it sees one of each country", &created, countries.len() as f64);
    let before = by_country(&mut db);

    // Creates a different number of networks for each country, and then networks by sessions and by a worker.
    for (n, country) in countries.iter().enumerate() {
        ensure(&mut db, 1000 * (n + 1) + 1, 10 + 3 * n, country);
    }
    let after = by_country(&mut db);
    work(&lab, &mut db);
    let networks = db.number("SELECT count(*) FROM asn_inventory") as f64;
    scraped("it sees all networks", &created, networks);
    scraped("it sees them as operations", &operations, networks);
    scraped("the worker counted the inventory", "sum(asn_inventory_size)", networks);
    // More than one scrape: the rate is a mean over the scrapes in the window.
    let samples = format!("count_over_time({operations}[5m])");
    let samples = wait_until("there are many samples", || prometheus.number(&samples), |n| *n >= Some(40.0))
        .expect("it is waited for");

    // Compares the networks created per minute. Prometheus extrapolates from the first and the last sample to the
    // ends of the window, at each end by at most 1.1 scrape intervals.
    let slack = 2.2 / (samples - 20.0);
    let rates =
        prometheus.query(&format!("sum by (country) (rate({CREATED}{{source=\"manual\"}}[5m])) * 60"));
    assert_eq!(rates.len(), countries.len(), "{rates:?}");
    for rate in &rates {
        let country = rate.label("country");
        let expected = after[country] - before[country];
        assert!(expected >= 10.0);
        assert_near(country, rate.value * 5.0, expected, slack);
    }
    // Operations are counted from zero, so all are included.
    let rate = prometheus.number(&format!("sum(rate({operations}[5m])) * 60")).expect("a rate");
    assert_near("operations", rate * 5.0, networks, slack);

    // The ten countries with most networks in the inventory.
    let mut expected: Vec<f64> = by_country(&mut db).into_values().collect();
    expected.sort_by(f64::total_cmp);
    assert!(expected.len() > 10);
    let of = by_country(&mut db);
    let top = prometheus.query(&format!("topk(10, sum by (country) ({CREATED}))"));
    assert_eq!(top.len(), 10, "{top:?}");
    for sample in &top {
        assert_eq!(of[sample.label("country")], sample.value, "{}", sample.label("country"));
    }
    let mut values: Vec<f64> = top.iter().map(|sample| sample.value).collect();
    values.sort_by(f64::total_cmp);
    assert_eq!(values, expected[expected.len() - 10..]);

    // All work has ended, so the values in the database are those of the last scrape.
    let quantiles = prometheus
        .query(&format!("histogram_quantile(0.95, sum by (le, operation) (rate({DURATION}_bucket[5m])))"));
    for operation in ["create", "update"] {
        let rows = db.rows(&format!(
            "SELECT labels ->> 'le', value FROM enrich_metrics
             WHERE name = '{DURATION}_bucket' AND labels ->> 'operation' = '{operation}'
             ORDER BY (labels ->> 'le')::float8"
        ));
        let number = |text: &str| text.parse::<f64>().expect("a number");
        let buckets: Vec<(f64, f64)> = rows
            .iter()
            .map(|row| row.split_once('|').map(|(le, n)| (number(le), number(n))).expect("two columns"))
            .collect();
        let expected = quantile(0.95, &buckets);
        let seen =
            quantiles.iter().find(|sample| sample.label("operation") == operation).expect("a quantile");
        assert!(
            (seen.value / expected - 1.0).abs() < 1e-6,
            "{operation}: {}, expected {expected} of {buckets:?}",
            seen.value
        );
        eprintln!(
            "P95 of {operation}: {:.1} us, over {} networks",
            seen.value * 1e6,
            buckets.last().expect("all").1
        );
    }
    lab.assert_nothing_crashed();
}

/// Returns true if an expression may have no result, because it shows errors and the run had none.
fn may_be_empty(expression: &str) -> bool {
    expression.ends_with("> 0")
        && ["unanswered", "dropped_rows", "export_failures", "step_errors"]
            .iter()
            .any(|it| expression.contains(it))
}

fn legend_labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|part| part.split_once("}}").map(|(label, _)| label)).collect()
}

#[test]
fn every_query_of_the_dashboard_and_every_rule_runs_in_a_real_prometheus() {
    let Some(program) = tool("prometheus") else { return };
    let port = free_port();
    let lab = watched("monitoring-panels", port);
    let mut db = lab.database();
    let prometheus = Prometheus::start(&program, "panels", port, &file("prometheus/alerts.yml"));
    // Series that appear with the first network must be scraped before the other work, otherwise they have no rate.
    wait_until("it scrapes", || prometheus.number("enrich_launcher_up"), |up| *up == Some(1.0));
    work(&lab, &mut db);
    let counted = |expression: &str, expected: f64| {
        wait_until(expression, || prometheus.number(expression), |seen| *seen == Some(expected))
    };
    let networks = db.number("SELECT count(*) FROM asn_inventory") as f64;
    counted(&format!("sum({CREATED})"), networks);
    db.run(
        "SELECT ensure_asn_inventory(65000, 'Another', 'DE', 'ripencc'); SELECT ensure_asn_inventory(64500)",
    );
    counted(&format!("sum({CREATED})"), networks + 1.0);
    counted("sum(asn_inventory_size)", networks + 1.0);
    wait_until(
        "two scrapes have seen each database",
        || prometheus.number("min(count_over_time(asn_inventory_size[5m]))"),
        |n| *n >= Some(2.0),
    );

    let mut empty = Vec::new();
    for target in targets() {
        let expression = with_variables(&target.expression);
        let samples = match prometheus.try_query(&expression) {
            Ok(samples) => samples,
            Err(error) => panic!("{}: {expression}: {error}", target.panel),
        };
        let numbers: Vec<&Sample> = samples.iter().filter(|sample| !sample.value.is_nan()).collect();
        let Some(first) = numbers.first() else {
            if !may_be_empty(&expression) {
                empty.push(target);
            }
            continue;
        };
        for label in legend_labels(&target.legend) {
            assert!(first.labels.contains_key(label), "{}: no {label} in {first:?}", target.panel);
        }
        // A selected server and database restricts the result.
        let other = target.expression.replace("$instance", "another-server").replace("$database", "another");
        let none = prometheus.query(&with_variables(&other));
        let is_default = expression.ends_with("or vector(0)");
        assert!(none.is_empty() || is_default, "{}: {none:?} of a server that is not there", target.panel);
    }
    assert!(empty.is_empty(), "nothing to see: {empty:#?}");

    let loaded = || {
        let groups = prometheus.ask("/api/v1/rules").expect("the rules");
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let all = wait_until("every rule was evaluated", loaded, |rules| {
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")
    });
    assert_eq!(all.len(), rules().len());
    for rule in &all {
        assert!(rule["health"] == "ok" && rule["lastError"].is_null(), "{rule}");
    }
    wait_until(
        "the recording rules have values",
        || prometheus.query("{__name__=~\".+:.+\"}").len(),
        |samples| *samples >= 4,
    );
    lab.assert_nothing_crashed();
}

/// The statements are written for the schema of the README.
fn in_schema_enrich(sql: &str) -> String {
    sql.replace("cowrie_enrich.", "enrich.").replace("SCHEMA cowrie_enrich", "SCHEMA enrich")
}

/// Connects as the role of monitoring/README.md.
fn monitor<'a>(db: &mut Database<'a>) -> Session {
    let page = read("README.md");
    let block =
        page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    db.run(&in_schema_enrich(block));
    let mut session = db.session_as("cowrie_monitor");
    for forbidden in
        ["SELECT * FROM enrich.ip_inventory", "SELECT enrich.reset_enrich_stats()", "SELECT * FROM sessions"]
    {
        assert_eq!(session.refused(forbidden).code, "42501", "{forbidden}");
    }
    session
}

/// The name of a sample and its labels as `name=value`, in order.
type Series = (String, Vec<String>);

/// Returns the series of the view without values, which change.
fn all_series(session: &mut Session) -> BTreeSet<Series> {
    let rows =
        session.client.query("SELECT name, labels::text FROM enrich.enrich_metrics", &[]).expect("metrics");
    rows.iter()
        .map(|row| {
            let labels: BTreeMap<String, String> =
                serde_json::from_str(row.get(1)).expect("labels are an object of texts");
            (row.get(0), labels.iter().map(|(name, value)| format!("{name}={value}")).collect())
        })
        .collect()
}

fn labels_of(row: &Row, names: &[String]) -> Vec<String> {
    let mut labels: Vec<String> = names
        .iter()
        .map(|name| {
            let value: Option<String> = row.try_get(name.as_str()).unwrap_or_else(|e| panic!("{name}: {e}"));
            format!("{name}={}", value.unwrap_or_default())
        })
        .collect();
    labels.sort();
    labels
}

fn column<'a>(row: &'a Row, name: &str) -> &'a Type {
    let found = row.columns().iter().find(|column| column.name() == name);
    found.unwrap_or_else(|| panic!("no column {name} in {:?}", row.columns())).type_()
}

/// Returns kind and help of the sample's family.
fn declared(sample: &str) -> (&'static str, &'static str) {
    let family = declarations::ALL.iter().find(|family| {
        let part = sample.strip_prefix(family.prometheus);
        part.is_some_and(|part| ["", "_bucket", "_sum", "_count"].contains(&part))
    });
    let family = family.unwrap_or_else(|| panic!("{sample} is of no family"));
    (family.kind.name(), family.help)
}

fn busy_lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker())
}

#[test]
fn postgres_exporter_gets_every_metric_under_its_name() {
    let lab = busy_lab("monitoring-postgres-exporter");
    let mut db = lab.database();
    work(&lab, &mut db);
    let mut session = monitor(&mut db);
    let mut found = BTreeSet::new();
    for (namespace, query) in yaml("postgres_exporter/queries.yaml").as_hash().expect("queries") {
        let namespace = text(namespace);
        assert_eq!(query["master"], Yaml::Boolean(true), "{namespace} would be asked in each database");
        let metrics: Vec<(String, String, String)> = list(&query["metrics"])
            .iter()
            .map(|metric| {
                let (name, said) = metric.as_hash().and_then(|it| it.iter().next()).expect("a column");
                (text(name), text(&said["usage"]), text(&said["description"]))
            })
            .collect();
        let labels: Vec<String> =
            metrics.iter().filter(|(_, usage, _)| usage == "LABEL").map(|(name, ..)| name.clone()).collect();
        let rows = session.client.query(&in_schema_enrich(&text(&query["query"])), &[]);
        let rows = rows.unwrap_or_else(|e| panic!("{namespace}: {e}"));
        assert!(!rows.is_empty(), "{namespace} has no rows");
        for (name, usage, description) in metrics.iter().filter(|(_, usage, _)| usage != "LABEL") {
            let sample = format!("{namespace}_{name}");
            assert_eq!(declared(&sample), (usage.to_lowercase().as_str(), description.as_str()), "{sample}");
            for row in &rows {
                let labels = labels_of(row, &labels);
                if usage == "HISTOGRAM" {
                    found.extend(histogram(row, &sample, name, &labels));
                } else {
                    assert_eq!(*column(row, name), Type::FLOAT8, "{sample}");
                    let value: Option<f64> = row.get(name.as_str());
                    // Null becomes NaN.
                    assert!(value.is_some() || sample.contains("quota"), "{sample} of {labels:?}");
                    if value.is_some() {
                        found.insert((sample.clone(), labels));
                    }
                }
            }
        }
        // postgres_exporter would make a metric of any other column.
        let used = |column: &str| {
            metrics.iter().any(|(name, usage, _)| {
                column == name
                    || usage == "HISTOGRAM"
                        && ["_bucket", "_sum", "_count"].iter().any(|it| format!("{name}{it}") == column)
            })
        };
        assert!(rows[0].columns().iter().all(|column| used(column.name())), "{namespace}: a column too many");
    }
    compare(&found, &all_series(&mut session));
}

/// Returns a histogram as postgres_exporter reads it: bounds and counts as arrays. It adds the last, infinite bucket.
fn histogram(row: &Row, sample: &str, name: &str, labels: &[String]) -> Vec<Series> {
    assert_eq!(*column(row, name), Type::FLOAT8_ARRAY, "{sample}");
    assert_eq!(*column(row, &format!("{name}_bucket")), Type::INT8_ARRAY, "{sample}");
    let bounds: Vec<f64> = row.get(name);
    let counts: Vec<i64> = row.get(format!("{name}_bucket").as_str());
    let sum: f64 = row.get(format!("{name}_sum").as_str());
    let count: i64 = row.get(format!("{name}_count").as_str());
    assert_eq!(bounds.len(), counts.len(), "{sample}");
    assert!(bounds.is_sorted() && counts.is_sorted() && bounds.iter().all(|it| it.is_finite()), "{sample}");
    assert!(counts.last() <= Some(&count) && (sum > 0.0) == (count > 0), "{sample}: {sum} of {count}");
    let with_le = |le: String| {
        let mut labels = [labels, &[format!("le={le}")]].concat();
        labels.sort();
        (format!("{sample}_bucket"), labels)
    };
    let mut series: Vec<Series> = bounds.iter().map(|bound| with_le(bound.to_string())).collect();
    series.push(with_le("+Inf".to_owned()));
    series.extend(["_sum", "_count"].map(|part| (format!("{sample}{part}"), labels.to_vec())));
    series
}

#[test]
fn sql_exporter_gets_every_metric_under_its_name() {
    let lab = busy_lab("monitoring-sql-exporter");
    let mut db = lab.database();
    work(&lab, &mut db);
    let mut session = monitor(&mut db);
    let collector = yaml("sql_exporter/cowrie_enrich.collector.yml");
    assert_eq!(text(&collector["collector_name"]), "cowrie_enrich");
    let queries = list(&collector["queries"]);
    assert_eq!(queries.len(), 1, "one query a scrape");
    let rows =
        session.client.query(&in_schema_enrich(&text(&queries[0]["query"])), &[]).expect("the query runs");
    let mut found = BTreeSet::new();
    let (mut keys, mut values) = (BTreeSet::new(), BTreeSet::new());
    for metric in list(&collector["metrics"]) {
        let name = text(&metric["metric_name"]);
        assert_eq!(metric["query_ref"], queries[0]["query_name"], "{name}");
        let (kind, help) = declared(&name);
        // sql_exporter has only counters and gauges. The samples of a histogram are counters, because they only
        // increase.
        let expected = if kind == "histogram" { "counter" } else { kind };
        assert_eq!(text(&metric["type"]), expected, "{name}");
        assert!(text(&metric["help"]).starts_with(help), "{name}");
        let labels: Vec<String> = list(&metric["key_labels"]).iter().map(text).collect();
        let value = list(&metric["values"]).iter().map(text).collect::<Vec<_>>();
        assert_eq!(value, std::slice::from_ref(&name));
        for row in &rows {
            assert_eq!(*column(row, &name), Type::FLOAT8, "{name}");
            // sql_exporter skips null.
            if row.get::<_, Option<f64>>(name.as_str()).is_some() {
                found.insert((name.clone(), labels_of(row, &labels)));
            }
        }
        keys.extend(labels);
        values.insert(name);
    }
    // sql_exporter refuses a column that is a label in one metric and a value in another. It logs a column that is
    // neither.
    assert!(keys.is_disjoint(&values));
    let columns: BTreeSet<String> = rows[0].columns().iter().map(|column| column.name().to_owned()).collect();
    assert_eq!(columns, keys.union(&values).cloned().collect());
    compare(&found, &all_series(&mut session));
}

#[track_caller]
fn compare(found: &BTreeSet<Series>, expected: &BTreeSet<Series>) {
    let missing: Vec<_> = expected.difference(found).take(10).collect();
    let surplus: Vec<_> = found.difference(expected).take(10).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
    assert!(found.len() > 250, "{} samples", found.len());
    // Includes series that do not always exist.
    for name in [
        "asn_inventory_records_created_total",
        "enrich_worker_heartbeat_age_seconds",
        "enrich_mmdb_build_age_seconds",
    ] {
        assert!(found.iter().any(|(sample, _)| sample == name), "no {name}");
    }
}

#[test]
fn a_standby_says_that_it_is_one_so_that_nobody_misses_its_workers() {
    let primary = cluster_with_world(&Options::named("monitoring-primary"));
    let mut db = fresh_database(&primary);
    let standby = primary.standby(&Options::named("monitoring-standby").with_worker());
    let mut there = standby.session(&db.name);
    let value = "SELECT value FROM enrich.enrich_metrics WHERE name = 'enrich_server_standby'";
    assert_eq!((db.one(value).as_str(), there.one(value).as_str()), ("0", "1"));
    let launcher = "SELECT value FROM enrich.enrich_metrics WHERE name = 'enrich_launcher_up'";
    wait_until("its launcher runs", || there.one(launcher), |up| up == "1");
    assert_eq!(there.number("SELECT count(*) FROM enrich.enrich_metrics WHERE name = 'enrich_worker_up'"), 0);
}

/// A relative link stays valid in any location of the repository.
#[test]
fn links_of_the_readme_lead_somewhere() {
    let page = read("README.md");
    for link in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        let (path, _) = link.split_once('#').unwrap_or((link, ""));
        assert!(Path::new(&file(path)).exists(), "{link}");
    }
}
