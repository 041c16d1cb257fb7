//! Only a superuser can make the server connect anywhere, or read or write a file. No setting, argument or name lets
//! another role do so.

use std::net::TcpListener;

use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::scrape::{free_address, scrape, wait_for_metrics};
use server_tests::{Database, Options, database};

/// Every setting, and whether roles without privileges can see it. All settings belong to the server: no role can set
/// them in a session, for a role, for a database or by a connection option.
const SETTINGS: &[(&str, bool)] = &[
    ("asn_database", false),
    ("city_database", false),
    ("cymru_absent_ttl", true),
    ("cymru_batch_size", true),
    ("cymru_dns_server", false),
    ("cymru_max_connections", true),
    ("cymru_networks", true),
    ("cymru_rate", true),
    ("cymru_timeout", true),
    ("cymru_transport", true),
    ("cymru_ttl", true),
    ("cymru_whois_host", false),
    ("cymru_whois_port", false),
    ("databases", false),
    ("dshield_absent_ttl", true),
    ("dshield_contact", false),
    ("dshield_daily_quota", true),
    ("dshield_max_parallel", true),
    ("dshield_rate", true),
    ("dshield_timeout", true),
    ("dshield_ttl", true),
    ("dshield_url", false),
    ("enabled_sources", false),
    ("greynoise_absent_ttl", true),
    ("greynoise_api_key_file", false),
    ("greynoise_daily_quota", true),
    ("greynoise_max_parallel", true),
    ("greynoise_rate", true),
    ("greynoise_timeout", true),
    ("greynoise_ttl", true),
    ("greynoise_url", false),
    ("http_proxy", false),
    ("ip_type_databases", false),
    ("ip_type_max_age", true),
    ("max_attempts", true),
    ("metrics", true),
    ("metrics_listen", false),
    ("mmdb_max_age", true),
    ("otlp_endpoint", false),
    ("otlp_interval", true),
    ("otlp_sample_ratio", true),
    ("retry_base", true),
    ("spur_absent_ttl", true),
    ("spur_daily_quota", true),
    ("spur_max_parallel", true),
    ("spur_rate", true),
    ("spur_timeout", true),
    ("spur_token_file", false),
    ("spur_ttl", true),
    ("spur_url", false),
    ("status_file", false),
    ("worker_enabled", true),
    ("ttl_vpn_percent", true),
    ("ttl_hosting_percent", true),
    ("ttl_isp_percent", true),
    ("worker_naptime", true),
    ("worker_role", false),
];

fn stranger(db: &mut Database<'_>) -> String {
    let role = db.own_name("stranger");
    let database = db.name.clone();
    // The owner of the database may set options of its connections.
    db.run(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN CREATEROLE; ALTER DATABASE {database} OWNER TO {role};
         GRANT USAGE ON SCHEMA enrich TO {role}"
    ));
    role
}

#[test]
fn every_setting_is_the_servers_and_is_set_by_superusers_alone() {
    let mut db = database();
    let role = stranger(&mut db);
    let all = db.rows(
        "SELECT name, context, setting FROM pg_settings WHERE name LIKE 'cowrie\\_enrich.%' ORDER BY name",
    );
    assert!(all.len() > 30, "{all:?}");
    let mut session = db.session_as(&role);
    session.run("SELECT enrich.ip_country('8.8.8.8')");
    let visible = session.rows("SELECT name FROM pg_settings WHERE name LIKE 'cowrie\\_enrich.%'");
    let mut superuser = db.another();
    let listed: Vec<(String, String)> = all
        .iter()
        .map(|row| {
            let mut columns = row.split('|').map(str::to_owned);
            (columns.next().expect("a name"), columns.next().expect("a context"))
        })
        .collect();
    let mut as_found = String::new();
    let mut differences = Vec::new();
    for (name, context) in &listed {
        assert_eq!(context, "sighup", "{name} can be set by {context}");
        let short = name.trim_start_matches("cowrie_enrich.");
        let is_visible = visible.contains(name);
        as_found.push_str(&format!("    (\"{short}\", {is_visible}),\n"));
        if !SETTINGS.contains(&(short, is_visible)) {
            differences.push(short.to_owned());
        }
        let attempts = [
            format!("SET {name} = '1'"),
            format!("SET LOCAL {name} = '1'"),
            format!("SELECT set_config('{name}', '1', false)"),
            format!("ALTER ROLE {role} SET {name} = '1'"),
            format!("ALTER DATABASE {} SET {name} = '1'", db.name),
            format!("ALTER ROLE {role} IN DATABASE {} SET {name} = '1'", db.name),
            format!("ALTER SYSTEM SET {name} = '1'"),
            format!("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET {name} = '1' AS 'SELECT 1'"),
            format!(
                "UPDATE pg_settings SET setting = '1' WHERE name = '{name}' AND set_config(name, '1', false) IS NULL"
            ),
        ];
        for attempt in &attempts {
            let end = session.try_run(attempt).map_err(|refusal| refusal.code);
            let is_refused = end.as_ref().is_err_and(|code| code == "42501" || code == "55P02");
            // An UPDATE of an invisible row changes nothing.
            assert!(is_refused || attempt.starts_with("UPDATE"), "{attempt}: {end:?}");
            // A superuser cannot do it either, except by ALTER SYSTEM.
            if !attempt.starts_with("ALTER SYSTEM") && !attempt.starts_with("UPDATE") {
                assert_eq!(superuser.refused(attempt).code, "55P02", "{attempt}");
            }
        }
        let mut psql = db.cluster.program("psql");
        let output = psql
            .args(["-X", "-d", &db.name, "-c", "SELECT 1"])
            .env("PGUSER", &role)
            .env("PGOPTIONS", format!("-c {name}=1"))
            .output()
            .expect("psql runs");
        assert!(!output.status.success(), "{name} was set when connecting");
    }
    let gone: Vec<&str> = SETTINGS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !as_found.contains(&format!("\"{name}\"")))
        .collect();
    assert!(differences.is_empty() && gone.is_empty(), "{differences:?} {gone:?}\nas found:\n{as_found}");
    assert_eq!(
        db.one("SELECT count(*) FROM pg_db_role_setting s, unnest(setconfig) c WHERE c LIKE 'cowrie%'"),
        "0"
    );
    let now = db.rows(
        "SELECT name, context, setting FROM pg_settings WHERE name LIKE 'cowrie\\_enrich.%' ORDER BY name",
    );
    assert_eq!(now, all, "a setting has changed");
}

/// Since PostgreSQL 15 a superuser can grant the privilege to set a setting.
#[test]
fn a_granted_right_to_set_is_of_no_use_and_one_to_alter_system_is_what_it_says() {
    let mut db = database();
    let role = stranger(&mut db);
    db.run(&format!("GRANT SET ON PARAMETER cowrie_enrich.greynoise_url TO {role}"));
    let mut session = db.session_as(&role);
    assert_eq!(session.refused("SET cowrie_enrich.greynoise_url = 'http://127.0.0.1:1/x'").code, "55P02");
    assert_eq!(
        session.refused("ALTER SYSTEM SET cowrie_enrich.greynoise_url = 'http://127.0.0.1:1/x'").code,
        "42501"
    );
    db.run(&format!("REVOKE SET ON PARAMETER cowrie_enrich.greynoise_url FROM {role}"));
}

#[test]
fn no_argument_of_ours_is_a_place_to_connect_to_or_a_file() {
    let mut db = database();
    let named = db.rows(
        "SELECT p.proname, n.name FROM pg_proc p
         JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'cowrie_enrich'
         CROSS JOIN LATERAL unnest(p.proargnames[1:p.pronargs]) n(name)
         WHERE n.name ~* '(url|host|port|path|file|server|endpoint|uri|dsn)' ORDER BY 1, 2",
    );
    assert_eq!(named, [""; 0]);
    // Every text argument must be one of a list.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let place = listener.local_addr().expect("it has one");
    for call in [
        "SELECT enrich.request_enrichment('8.8.8.8', '{}')",
        "SELECT enrich.retry_dead_letters('{}')",
        "SELECT enrich.resume_provider('{}')",
        "SELECT enrich.lookup_key_of('{}', '8.8.8.8')",
        "SELECT enrich.may_be_asked('{}', '8.8.8.8')",
        "SELECT enrich.mmdb_files('{}')",
        "CALL enrich.refresh_stale('{}')",
        "CALL enrich.import_inventory('{}')",
        "SELECT enrich.is_source_stale('{\"{}\": {}}', 1, '{}')",
        "SELECT enrich.ensure_asn_inventory(64500, '{}')",
        "SELECT enrich.geo_country_of('{\"maxmind\": {\"country\": \"{}\"}}')",
    ] {
        for text in [
            format!("http://{place}/"),
            place.to_string(),
            format!("greynoise@{place}"),
            "/etc/passwd".to_owned(),
        ] {
            let _ = db.try_run(&call.replace("{}", &text));
        }
    }
    for text in
        ["8.8.8.8/../../x", "8.8.8.8?x=1", "8.8.8.8#x", "8.8.8.8%0d%0aX: 1", "fe80::1%eth0", "8.8.8.8 "]
    {
        // The address is parsed before any other step.
        let end = db.try_run(&format!("SELECT enrich.request_enrichment('{text}', 'cymru')"));
        assert_eq!(end.map_err(|refusal| refusal.code), Err("22P02".to_owned()), "{text}");
    }
    listener.set_nonblocking(true).expect("it can be");
    assert!(listener.accept().is_err(), "somebody connected");
}

/// Asserts that each line of the text format is a comment, or a name with labels and a number.
fn assert_is_prometheus_text(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()) {
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        assert!(value.parse::<f64>().is_ok(), "no number: {line:?}");
        let name = sample.split('{').next().expect("a name");
        assert!(
            name.starts_with("enrich_") || !name.contains("fake"),
            "a metric of somebody else's: {line:?}"
        );
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), "no name: {line:?}");
        assert!(!name.contains("fake"), "{line:?}");
    }
}

#[test]
fn names_put_nothing_into_metrics_status_files_or_the_log() {
    let scraped = free_address();
    let cluster = cluster_with_world(
        &Options::named("names")
            .with_worker()
            .conf(&format!("cowrie_enrich.metrics_listen = '{scraped}'"))
            .conf("cowrie_enrich.worker_naptime = 100ms")
            // The log prefix contains no name of a database or role, because the server would write control
            // characters in it unchanged.
            .conf("log_line_prefix = '%m [%p] '")
            .conf("max_worker_processes = 20"),
    );
    let name = "evil\"} 1\nfake_metric 2\n# x\\\u{1b}[31m', \"fake\": 1, 'x";
    let quoted = name.replace('"', "\"\"");
    let mut admin = cluster.session("postgres");
    admin.run(&format!("CREATE DATABASE \"{quoted}\" TEMPLATE with_extension"));
    let mut session = cluster.session(name);
    session.run("SELECT enrich.ensure_asn_inventory(64500, E'Evil\\n\"} 1\\nfake_metric 3', 'DE', 'RIPE')");
    COWRIE.create_attached(&mut session);
    session.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("\n\u{1b}[31mFATAL: fake"))]));
    // Creates a table with a line break in its name, for which the extension logs an error.
    session.run(
        "CREATE TABLE \"x\nLOG:  fake line\n\" (ip text); SELECT enrich.attach_session_table(a.oid::regclass, 'ip') FROM pg_class a
         WHERE relname LIKE '%fake line%' AND relkind = 'r';
         ALTER TABLE \"x\nLOG:  fake line\n\" RENAME ip TO peer; INSERT INTO \"x\nLOG:  fake line\n\" VALUES ('8.8.8.8')",
    );
    let text =
        session.rows("SELECT l FROM regexp_split_to_table(enrich.prometheus_metrics(), '\\n') l").join("\n");
    assert_is_prometheus_text(&text);
    wait_for_metrics(scraped);
    assert_is_prometheus_text(&scrape(scraped).body);
    assert_eq!(session.one("SELECT enrich.status_json() ? 'fake'"), "f");
    assert_eq!(session.one("SELECT count(*) FROM enrich.enrich_metrics WHERE name LIKE '%fake%'"), "0");
    assert_eq!(
        session.one(
            "SELECT organization_name ~ '[[:cntrl:]]' FROM enrich.asn_inventory WHERE asn_number = 64500"
        ),
        "f"
    );
    let log = cluster.whole_log();
    let faked: Vec<&str> = log
        .lines()
        // The server quotes statements after a tab.
        .filter(|line| !line.starts_with('\t'))
        .filter(|line| {
            line.starts_with("LOG:  fake") || line.starts_with("fake_metric") || line.contains('\u{1b}')
        })
        .collect();
    assert!(faked.is_empty(), "{faked:?}");
}

/// A list with an unknown or empty name is refused when it is set. A correct list is accepted in any case and spacing.
#[test]
fn a_list_with_a_name_that_does_not_exist_is_refused() {
    let mut db = database();
    for (setting, value) in [
        ("enabled_sources", "maxmind,greynois"),
        ("enabled_sources", "abuseipdb"),
        ("enabled_sources", "maxmind,,cymru"),
        ("enabled_sources", "maxmind cymru"),
        ("databases", "honeypot,"),
        ("databases", "*"),
        ("databases", "\"b\""),
        ("databases", &"d".repeat(64)),
    ] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.{setting} = '{value}'"));
        assert_eq!(refusal.code, "22023", "{setting} = {value}: {refusal:?}");
        assert!(refusal.hint.is_some(), "{setting} = {value}: {refusal:?}");
    }
    for (setting, value) in
        [("enabled_sources", " MaxMind , dshield"), ("enabled_sources", ""), ("databases", "a, b")]
    {
        db.run(&format!("ALTER SYSTEM SET cowrie_enrich.{setting} = '{value}'"));
        db.run(&format!("ALTER SYSTEM RESET cowrie_enrich.{setting}"));
    }
}
