//! The recipe of docs/many-sites.md: a central server reads the inventories of three sites over TCP, with passwords. All
//! statements are those of the page. One test kills a site, and lets another one hang.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use server_tests::cluster::SUPERUSER;
use server_tests::database::fresh_database;
use server_tests::documentation::{page, section};
use server_tests::hosts::COWRIE;
use server_tests::many_sites::{ANALYST, Fleet, PAGE, block_with, blocks, has_postgres_fdw};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Session, wait_until};

const NAMES: [&str; 3] = ["berlin", "lima", "oslo"];

/// The addresses of the sessions at each site. Two sites have seen 8.8.8.8, and all sites have seen 1.1.1.1.
const SESSIONS: [(&str, &[&str]); 3] = [
    ("berlin", &["8.8.8.8", "8.8.8.8", "8.8.8.9", "1.1.1.1"]),
    ("lima", &["8.8.8.8", "1.1.1.1", "1.1.1.1", "139.59.0.1"]),
    ("oslo", &["1.1.1.1", "10.0.0.1"]),
];

/// insufficient_privilege
const REFUSED: &str = "42501";

fn store_sessions(fleet: &Fleet) {
    for (name, addresses) in SESSIONS {
        let mut site = fleet.site(name).session();
        let keys: Vec<String> = (0..addresses.len()).map(|n| format!("{name}{n}")).collect();
        let rows: Vec<(&str, Option<&str>)> =
            keys.iter().zip(addresses).map(|(key, address)| (key.as_str(), Some(*address))).collect();
        site.run(&COWRIE.insert(&rows));
        site.run("CALL enrich.fold_statistics()");
    }
}

/// Returns three sites with sessions, which all tests share that harm no site; `None` without `postgres_fdw`.
fn fleet() -> Option<&'static Fleet> {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    has_postgres_fdw().then(|| {
        FLEET.get_or_init(|| {
            let fleet = Fleet::start("many-sites", &NAMES);
            store_sessions(&fleet);
            fleet
        })
    })
}

/// Adds up numbers of the sites, each read at the site. The first column of the query is the key.
fn sums_of_sites<'a>(fleet: &Fleet, names: impl IntoIterator<Item = &'a str>, query: &str) -> Vec<String> {
    let mut sums: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    for name in names {
        for row in fleet.site(name).session().rows(query) {
            let mut fields = row.split('|');
            let key = fields.next().expect("a key").to_owned();
            let mut number = || fields.next().expect("a number").parse::<i64>().expect("a number");
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + 1, sum.1 + number(), sum.2 + number());
        }
    }
    sums.iter()
        .map(|(key, (sites, addresses, sessions))| format!("{key}|{sites}|{addresses}|{sessions}"))
        .collect()
}

const COUNTRIES_OF_A_SITE: &str =
    "SELECT geo_country, count(*), sum(session_count) FROM enrich.ip_inventory GROUP BY 1";
const COUNTRIES: &str = "SELECT geo_country, sites, site_addresses, sessions FROM sites.country_activity
    ORDER BY geo_country COLLATE \"C\"";

#[test]
fn sums_of_the_centre_equal_those_of_the_sites() {
    let Some(fleet) = fleet() else { return };
    let mut analyst = fleet.analyst();
    let countries = analyst.rows(COUNTRIES);
    assert_eq!(countries, sums_of_sites(fleet, NAMES, COUNTRIES_OF_A_SITE));
    assert!(countries.contains(&"US|2|3|4".to_owned()), "{countries:?}");
    assert_eq!(
        analyst.rows(
            "SELECT asn_number, sites, site_addresses, sessions FROM sites.network_activity
             ORDER BY asn_number::text COLLATE \"C\""
        ),
        sums_of_sites(
            fleet,
            NAMES,
            "SELECT asn_number, unique_ip_count, total_session_count FROM enrich.asn_inventory"
        )
    );
    assert_eq!(
        analyst.rows("SELECT ip_address, sites, sessions FROM sites.shared_addresses ORDER BY 1"),
        ["1.1.1.1|{berlin,lima,oslo}|4", "8.8.8.8|{berlin,lima}|3"]
    );
    // Eight rows of five addresses.
    assert_eq!(
        analyst
            .one("SELECT count(*), count(DISTINCT ip_address), sum(session_count) FROM sites.ip_inventory"),
        "8|5|10"
    );
    assert_eq!(
        analyst.rows("SELECT site, count(*) FROM sites.ip_asn_history GROUP BY site ORDER BY site"),
        NAMES.map(|name| {
            format!("{name}|{}", fleet.site(name).session().one("SELECT count(*) FROM enrich.ip_asn_history"))
        })
    );
    assert_eq!(
        analyst.rows("SELECT site, ip_address, asn_number, country FROM sites.sessions WHERE ip_address = '8.8.8.8' ORDER BY 1"),
        ["berlin|8.8.8.8|15169|US", "berlin|8.8.8.8|15169|US", "lima|8.8.8.8|15169|US"]
    );
}

#[test]
fn an_analyst_runs_all_queries_of_the_page() {
    let Some(fleet) = fleet() else { return };
    let queries = blocks("Queries");
    assert!(queries.len() >= 5, "{} blocks", queries.len());
    for block in queries {
        let rows = fleet.run(ANALYST, &block.sql);
        assert!(!rows.is_empty(), "no rows from:\n{}", block.sql);
    }
    let readable = fleet.run(ANALYST, &block_with("AS readable"));
    assert_eq!(readable.len(), 3, "{readable:?}");
    assert_eq!(fleet.run(ANALYST, &block_with("\\gexec")), NAMES.map(|name| format!("{name}|t||0.1.0")));
    assert_eq!(
        fleet.run(ANALYST, &block_with("is_readable, error FROM sites.status")),
        NAMES.map(|name| format!("{name}|t|t|"))
    );
}

/// Returns the plan without the columns of each node's output.
fn plan(session: &mut Session, query: &str) -> String {
    let plan = session.rows(&format!("EXPLAIN (VERBOSE, COSTS OFF) {query}"));
    plan.into_iter().filter(|line| !line.trim_start().starts_with("Output:")).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_site_computes_its_own_sums_and_joins() {
    let Some(fleet) = fleet() else { return };
    let mut analyst = fleet.analyst();
    let explain = block_with("EXPLAIN (VERBOSE, COSTS OFF)");
    let pushed = plan(&mut analyst, explain.trim_start_matches("EXPLAIN (VERBOSE, COSTS OFF)"));
    // The page shows the part of one site.
    let shown = page(PAGE);
    let (_, shown) = section(&shown, "Queries").split_once("```\n->  ").expect("a plan");
    let (shown, _) = shown.split_once("```").expect("its end");
    for line in shown.lines() {
        assert!(pushed.contains(line.trim()), "{line} is not in:\n{pushed}");
    }
    let remote = "Remote SQL: SELECT site, geo_country, count(*), sum(session_count) FROM cowrie_site.ip_inventory GROUP BY 1, 2";
    assert_eq!(pushed.matches(remote).count(), 3, "{pushed}");
    assert_eq!(pushed.matches("Async Foreign Scan").count(), 3, "{pushed}");
    let of_view = plan(&mut analyst, "SELECT * FROM sites.country_activity");
    assert_eq!(of_view.matches(remote).count(), 3, "{of_view}");

    let join = plan(&mut analyst, &block_with("JOIN sites.asn_inventory"));
    assert_eq!(join.matches("INNER JOIN cowrie_site.asn_inventory").count(), 3, "{join}");
    assert_eq!(join.matches("GROUP BY 1, 2").count(), 3, "{join}");

    let by_day = |day: &str| format!("SELECT site, {day}, count(*) FROM sites.sessions GROUP BY 1, 2");
    let cast = plan(&mut analyst, &by_day("starttime::date"));
    assert_eq!(cast.matches("Remote SQL: SELECT site, starttime::date, count(*)").count(), 3, "{cast}");
    let truncated = plan(&mut analyst, &by_day("date_trunc('day', starttime)"));
    assert!(!truncated.contains("GROUP BY 1"), "{truncated}");

    // The page says that sums without the site are not computed at the sites.
    let one_level = plan(&mut analyst, "SELECT geo_country, count(*) FROM sites.ip_inventory GROUP BY 1");
    assert!(!one_level.contains("GROUP BY 1"), "{one_level}");

    let one_address =
        plan(&mut analyst, "SELECT site FROM sites.ip_inventory WHERE ip_address <<= '8.8.8.0/24'");
    assert_eq!(one_address.matches("WHERE ((ip_address <<= '8.8.8.0/24'").count(), 3, "{one_address}");
    let one_site = plan(&mut analyst, "SELECT count(*) FROM sites.ip_inventory WHERE site IN ('lima')");
    assert_eq!(one_site.matches("Remote SQL").count(), 1, "{one_site}");
}

#[test]
fn the_reader_of_a_site_reads_the_views_and_nothing_else() {
    let Some(fleet) = fleet() else { return };
    let site = fleet.site("lima");
    let views = site.session().rows(
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'cowrie_site'::regnamespace ORDER BY relname",
    );
    assert_eq!(views.len(), 5, "{views:?}");
    let readable = site.session().rows(
        "SELECT DISTINCT c.oid::regclass, c.relname FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
           AND has_schema_privilege('central_reader', n.oid, 'USAGE')
           AND (has_column_privilege('central_reader', c.oid, a.attnum, 'SELECT')
                OR has_table_privilege('central_reader', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'))
         ORDER BY c.relname",
    );
    let readable: Vec<&str> = readable.iter().filter_map(|row| row.split('|').next()).collect();
    assert_eq!(readable, views);
    let mut reader = site.cluster.session_as(&site.database, "central_reader");
    for view in &views {
        reader.run(&format!("SELECT * FROM {view}"));
        assert_eq!(reader.refused(&format!("DELETE FROM {view}")).code, REFUSED, "{view}");
    }
    assert_eq!(reader.refused("CREATE TEMPORARY TABLE own (n int)").code, "25006");
    // The role itself can switch off that its transactions are read-only.
    reader.run("SET default_transaction_read_only = off");
    for statement in [
        "SELECT * FROM enrich.ip_inventory",
        "SELECT ip FROM sessions",
        "SELECT * FROM enrich.enrichment_request",
        "SELECT enrich.enrich_ip('8.8.8.8')",
        "CALL enrich.fold_statistics()",
        "INSERT INTO sessions (id, starttime, sensor) VALUES ('new', now(), 1)",
        "DELETE FROM cowrie_site.ip_inventory",
        "UPDATE cowrie_site.asn_inventory SET asn_type = 'ISP'",
        "CREATE TABLE own (n int)",
        "CREATE VIEW cowrie_site.own AS SELECT 1",
        "SET ROLE cowrie_site",
        "COPY cowrie_site.sessions TO PROGRAM 'true'",
    ] {
        assert_eq!(reader.refused(statement).code, REFUSED, "{statement}");
    }
}

#[test]
fn an_analyst_of_the_centre_reads_the_views_and_sees_no_password() {
    let Some(fleet) = fleet() else { return };
    let mut analyst = fleet.analyst();
    for statement in [
        "SELECT * FROM site_tables.ip_inventory",
        "SELECT * FROM site_tables.site",
        "SELECT site_tables.detach_site('lima')",
        "DELETE FROM sites.ip_inventory",
        "ALTER USER MAPPING FOR sites_owner SERVER lima OPTIONS (SET user 'postgres')",
        "SET ROLE sites_owner",
    ] {
        assert_eq!(analyst.refused(statement).code, REFUSED, "{statement}");
    }
    assert_eq!(analyst.one("SELECT has_server_privilege('lima', 'USAGE')"), "f");
    assert_eq!(analyst.number("SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL"), 0);
    assert_eq!(
        fleet
            .session()
            .number("SELECT count(*) FROM pg_user_mappings WHERE umoptions::text LIKE '%password%'"),
        3
    );
    // The centre refuses to write even as the owner of the tables.
    let mut owner = fleet.session();
    owner.run("SET ROLE sites_owner");
    for statement in ["DELETE FROM site_tables.ip_inventory_lima", "TRUNCATE site_tables.ip_inventory"] {
        let refusal = owner.refused(statement);
        assert!(refusal.message.contains("does not allow"), "{statement}: {refusal:?}");
    }
}

#[test]
fn the_status_shows_a_site_with_a_wrong_name_password_or_view() {
    if !has_postgres_fdw() {
        return;
    }
    let fleet = &Fleet::start("many-sites-wrong", &["oslo"]);
    let mut centre = fleet.session();
    let site = fleet.site("oslo");
    let status = |centre: &mut Session, name: &str| {
        centre.one(&format!("SELECT is_readable, error FROM sites.check_site('{name}')"))
    };
    let mut lone = fresh_database(&site.cluster);
    COWRIE.create_attached(&mut lone);
    let host = centre.one("SELECT host FROM site_tables.site WHERE site = 'oslo'");
    centre.run(&format!(
        "SET ROLE sites_owner;
         INSERT INTO site_tables.site VALUES ('bergen', '{host}', 5432, '{}', 'disable');
         SELECT site_tables.attach_site('bergen')",
        site.database
    ));
    let missing = status(&mut centre, "bergen");
    assert!(missing.starts_with("f|") && missing.contains("password"), "{missing}");
    centre.run("ALTER USER MAPPING FOR sites_owner SERVER bergen OPTIONS (ADD password 'wrong')");
    let wrong = status(&mut centre, "bergen");
    assert!(
        wrong.contains("could not connect to server \"bergen\"")
            && wrong.contains("password authentication failed"),
        "{wrong}"
    );
    centre.run("ALTER USER MAPPING FOR sites_owner SERVER bergen OPTIONS (SET password 'it''s of oslo')");
    assert_eq!(
        status(&mut centre, "bergen"),
        "f|the site has another name: its function cowrie_site.name() returns 'oslo'"
    );
    // A database without the views.
    centre.run(&format!("ALTER SERVER bergen OPTIONS (SET dbname '{}')", lone.name));
    let bare = status(&mut centre, "bergen");
    assert!(bare.contains("relation \"cowrie_site.info\" does not exist"), "{bare}");
    // An old version of the extension, whose view lacks a column.
    for block in blocks("1. At each site") {
        let sql = site
            .own(&block.sql)
            .replace("'oslo'", "'bergen'")
            .replace("is_scanner, is_bogon, ", "is_scanner, ");
        let (_, of_schema) = sql.split_once("CREATE SCHEMA").expect("roles come first");
        lone.run("GRANT USAGE ON SCHEMA enrich TO cowrie_site");
        lone.run("GRANT SELECT ON ALL TABLES IN SCHEMA enrich, public TO cowrie_site");
        lone.run(&format!("CREATE SCHEMA{of_schema}"));
    }
    let old = status(&mut centre, "bergen");
    assert!(old.starts_with("f|column \"is_bogon\" does not exist"), "{old}");
    lone.run("DROP VIEW cowrie_site.ip_inventory");
    lone.run(
        "SET ROLE cowrie_site;
         CREATE VIEW cowrie_site.ip_inventory AS
         SELECT cowrie_site.name() AS site, ip_address, current_asn, first_seen, last_seen, session_count, geo_country,
                ip_types, is_scanner, NULL::boolean AS is_bogon, enrichment
         FROM enrich.ip_inventory;
         GRANT SELECT ON cowrie_site.ip_inventory TO central_reader",
    );
    assert_eq!(status(&mut centre, "bergen"), "t|NULL");
    centre.run(
        "SELECT site_tables.detach_site('bergen');
         RESET ROLE;
         DROP SERVER bergen CASCADE;
         DELETE FROM site_tables.site WHERE site = 'bergen'",
    );
    assert_eq!(centre.number("SELECT count(*) FROM site_tables.part WHERE NOT is_attached"), 0);
}

/// A postmaster that is stopped, but has not ended. The system still accepts connections for it. It continues when the
/// value is dropped.
struct Hanging(String);

impl Hanging {
    fn new(cluster: &Cluster) -> Self {
        let hanging = Self(cluster.postmaster_pid().to_string());
        hanging.signal("-STOP");
        hanging
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(name).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "could not send {name}");
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

#[test]
fn the_other_sites_stay_readable_if_one_is_killed_or_hangs() {
    if !has_postgres_fdw() {
        return;
    }
    let fleet = &Fleet::start("many-sites-down", &NAMES);
    store_sessions(fleet);
    let mut analyst = fleet.analyst();
    assert_eq!(analyst.rows(COUNTRIES), sums_of_sites(fleet, NAMES, COUNTRIES_OF_A_SITE));
    let detach = block_with("detach_site(site) FROM sites.status");
    let missing = block_with("WHERE NOT is_attached;");
    let readable = block_with("AS readable");

    let lima = fleet.site("lima");
    lima.cluster.kill_postmaster();
    // The connection of the session, and then a new one.
    for mut session in [analyst, fleet.analyst()] {
        let refusal =
            wait_until("the backends of the site have ended", || session.try_rows(COUNTRIES), Result::is_err)
                .expect_err("the condition");
        assert!(
            refusal.message.contains("could not connect to server \"lima\"") || refusal.code == "08006",
            "{refusal:?}"
        );
    }
    let mut analyst = fleet.analyst();
    let refusal = analyst.refused(COUNTRIES);
    assert_eq!(refusal.code, "08001");
    assert_eq!(refusal.message, "could not connect to server \"lima\"");
    assert_eq!(sorted(fleet.run(ANALYST, &readable)), ["berlin|3", "oslo|2"]);
    let status = analyst.rows("SELECT site, is_attached, is_readable, error FROM sites.status");
    assert_eq!([&status[0], &status[2]], ["berlin|t|t|NULL", "oslo|t|t|NULL"]);
    assert!(
        status[1].starts_with("lima|t|f|could not connect to server \"lima\": ")
            && status[1].contains("refused"),
        "{status:?}"
    );
    fleet.run(SUPERUSER, &detach);
    assert_eq!(analyst.rows(COUNTRIES), sums_of_sites(fleet, ["berlin", "oslo"], COUNTRIES_OF_A_SITE));
    let left_out = fleet.run(ANALYST, &missing);
    assert!(left_out[0].starts_with("lima|could not connect"), "{left_out:?}");
    // A second run changes nothing.
    fleet.run(SUPERUSER, &detach);
    assert_eq!(analyst.rows("SELECT site FROM sites.status WHERE NOT is_attached"), ["lima"]);

    lima.cluster.start_again();
    fleet.run(SUPERUSER, &detach);
    assert_eq!(fleet.run(ANALYST, &missing), [] as [&str; 0]);
    assert_eq!(analyst.rows(COUNTRIES), sums_of_sites(fleet, NAMES, COUNTRIES_OF_A_SITE));

    // PostgreSQL 15 ends the attempt by connect_timeout, later versions by statement_timeout. The page has longer times.
    fleet.session().run("ALTER SERVER lima OPTIONS (SET connect_timeout '2')");
    let hanging = Hanging::new(&lima.cluster);
    let mut patient = fleet.analyst();
    patient.run("SET statement_timeout = '5s'");
    let refusal = patient.refused(COUNTRIES);
    let by_connect_timeout = refusal.message == "could not connect to server \"lima\""
        && refusal.detail.iter().any(|d| d.contains("timeout expired"));
    assert!(by_connect_timeout || refusal.code == "57014", "{refusal:?}");
    let status = patient.rows("SELECT site, is_attached, is_readable, error IS NULL FROM sites.status");
    assert_eq!(status, ["berlin|t|t|t", "lima|t|f|f", "oslo|t|t|t"]);
    assert_eq!(patient.rows("SELECT site, count(*) FROM sites.ip_inventory WHERE site IN ('berlin', 'oslo') GROUP BY site ORDER BY 1"), ["berlin|3", "oslo|2"]);
    let impatiently = |sql: &str| format!("SET statement_timeout = '5s';\n{sql}");
    assert_eq!(sorted(fleet.run(ANALYST, &impatiently(&readable))), ["berlin|3", "oslo|2"]);
    fleet.run(SUPERUSER, &impatiently(&detach));
    assert_eq!(patient.rows(COUNTRIES), sums_of_sites(fleet, ["berlin", "oslo"], COUNTRIES_OF_A_SITE));
    drop(hanging);
    fleet.run(SUPERUSER, &detach);
    assert_eq!(patient.rows(COUNTRIES), sums_of_sites(fleet, NAMES, COUNTRIES_OF_A_SITE));
}

#[test]
fn sessions_of_several_sites_are_replicated_into_one_table_with_their_site() {
    let Some(fleet) = fleet() else { return };
    let mut central = fresh_database(&fleet.central);
    COWRIE.create_attached(&mut central);
    central.run(&block_with("ENABLE ALWAYS TRIGGER zz_cowrie_enrich_snapshot"));
    let publish = block_with("CREATE PUBLICATION");
    let subscribe = block_with("CREATE SUBSCRIPTION");
    let (before, rest) = subscribe.split_once("CONNECTION '").expect("a connection");
    let (_, after) = rest.split_once('\'').expect("its end");
    let mut published = Vec::new();
    for name in ["berlin", "lima"] {
        let site = fleet.site(name);
        let mut db = fresh_database(&site.cluster);
        COWRIE.create_attached(&mut db);
        db.run(&COWRIE.insert(&[(&format!("{name}-before"), Some("8.8.8.8"))]));
        db.run(&site.own(&publish));
        let socket = site.cluster.socket_dir().display();
        let connection = format!("CONNECTION 'host={socket} port=5432 user=postgres dbname={}'", db.name);
        central.run(&site.own(&format!("{before}{connection}{after}")));
        published.push((name, db));
    }
    for (name, db) in &mut published {
        db.run(&COWRIE.insert(&[(&format!("{name}-after"), Some("1.1.1.1"))]));
        db.run(&format!("UPDATE sessions SET endtime = starttime WHERE id = '{name}-before'"));
    }
    let expected = [
        "berlin|berlin-after|13335|f",
        "berlin|berlin-before|15169|t",
        "lima|lima-after|13335|f",
        "lima|lima-before|15169|t",
    ];
    wait_until(
        "all changes have arrived",
        || {
            central
                .rows("SELECT site, trim(id), snapshot_asn, endtime IS NOT NULL FROM sessions ORDER BY 1, 2")
        },
        |rows| rows == &expected,
    );
    assert_counts_are_exact(&mut central, &[("sessions", "ip")]);
    assert_eq!(
        central.rows("SELECT asn_number, sessions FROM enrich.campaign_networks('sessions', $$s.site = 'berlin'$$) ORDER BY 1"),
        ["13335|1", "15169|1"]
    );
    for (name, _) in published {
        central.run(&format!("DROP SUBSCRIPTION {name}"));
    }
}
