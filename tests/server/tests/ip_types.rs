//! Types of addresses from mmdb files: in snapshots, in the view of all types, and in the choice of providers.

use std::fs;
use std::time::{Duration, SystemTime};

use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::cymru::{members, wait_for_the_queue};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::http::{Plan, asked, request};
use server_tests::type_files::{DAY, HOUR, ago, configure, path, server, with_file};
use server_tests::{Cluster, Database, Options, Session, cymru, fresh_database, wait_until, world};

/// Returns the type that a new session of this address gets.
fn type_of_new(db: &mut Session, host: &Host, key: &str, address: &str) -> String {
    db.run(&host.insert(&[(key, Some(address))]));
    db.one(&format!("SELECT snapshot_ip_type FROM {} WHERE {} = '{key}'", host.table, host.key))
}

fn entries(db: &mut Session, address: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT type, list, provider, region, service, is_usable FROM ip_type_entries('{address}')"
    ))
}

fn lists() -> TypesFile {
    TypesFile::new()
        .list("tor", "TOR", ago(HOUR))
        .list("aws", "DATACENTER", ago(HOUR))
        .list("research", "SCANNER_BENIGN", ago(HOUR))
        .list("mine", "MY_LIST", ago(HOUR))
        .entry("tor", "8.8.8.8/32")
        .entry("tor", "2001:4860::7/128")
        .detailed("aws", "8.8.8.0/24", "AWS", "us-east-1", "EC2")
        .detailed("aws", "2001:4860::/32", "AWS", "us-west-2", "")
        .entry("research", "8.8.8.9/32")
        .entry("mine", "8.8.8.0/24")
        .entry("mine", "1.1.1.1/32")
        .entry("mine", "10.0.0.0/8")
}

#[test]
fn a_session_gets_the_leading_type_of_all_lists_that_match() {
    let cluster = server("types-lists");
    let mut db = with_file(&cluster, &lists());
    for host in [&COWRIE, &SUMMARIES] {
        host.create_attached(&mut db);
        for (n, (address, expected)) in [
            ("8.8.8.8", "TOR"),
            ("8.8.8.9", "SCANNER_BENIGN"),
            ("8.8.8.10", "DATACENTER"),
            ("1.1.1.1", "MY_LIST"),
            ("1.1.1.2", "NULL"),
            ("2001:4860::7", "TOR"),
            ("2001:4860::8", "DATACENTER"),
            ("2a03:2880::1", "NULL"),
            // In no other file.
            ("48.0.0.1", "NULL"),
            ("10.0.0.1", "NULL"),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(type_of_new(&mut db, host, &format!("k{n}"), address), expected, "{address}");
            // The second session reads the row of the inventory.
            assert_eq!(type_of_new(&mut db, host, &format!("l{n}"), address), expected, "{address}");
        }
    }
    assert_eq!(
        entries(&mut db, "8.8.8.8"),
        ["TOR|tor|NULL|NULL|NULL|t", "DATACENTER|aws|AWS|us-east-1|EC2|t", "MY_LIST|mine|NULL|NULL|NULL|t"]
    );
    assert_eq!(entries(&mut db, "2001:4860::8"), ["DATACENTER|aws|AWS|us-west-2|NULL|t"]);
    assert_eq!(entries(&mut db, "10.0.0.1"), [""; 0]);
    assert_eq!(entries(&mut db, "9.9.9.9"), [""; 0]);
    assert_eq!(db.refused("SELECT ip_type_entries('8.8.8.0/24')").code, "22023");
    // Files change nothing that is stored about an address.
    assert_eq!(
        db.number(
            "SELECT count(*) FROM ip_inventory WHERE ip_types <> '{}' OR enrichment::text ~ 'TOR|DATACENTER'"
        ),
        0
    );
}

#[test]
fn a_provider_and_a_file_together_give_the_leading_type() {
    let cluster = server("types-providers");
    let mut db = with_file(&cluster, &lists());
    COWRIE.create_attached(&mut db);
    let spur = |db: &mut Database<'_>, address: &str, kind: &str| {
        db.run(&format!(
            "SELECT enrich_ip('{address}');
             UPDATE ip_inventory SET enrichment = enrichment || '{{\"spur\": {{\"infrastructure\": \"{kind}\", \"cached_at\": \"2026-01-02T03:04:05+00:00\"}}}}'
             WHERE ip_address = '{address}'"
        ));
    };
    spur(&mut db, "8.8.8.8", "DATACENTER");
    spur(&mut db, "8.8.8.10", "VPN");
    spur(&mut db, "1.1.1.2", "MOBILE");
    spur(&mut db, "1.1.1.1", "SOMETHING");
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "TOR");
    assert_eq!(type_of_new(&mut db, &COWRIE, "b", "8.8.8.10"), "VPN");
    assert_eq!(type_of_new(&mut db, &COWRIE, "c", "1.1.1.2"), "MOBILE");
    // Neither type is in the order of precedence, so the provider's comes first.
    assert_eq!(type_of_new(&mut db, &COWRIE, "d", "1.1.1.1"), "SOMETHING");
    assert_eq!(
        db.rows(
            "SELECT type, source, is_list, provider, region, service FROM address_types
             WHERE ip_address = '8.8.8.8' ORDER BY is_list, source"
        ),
        [
            "DATACENTER|spur|f|NULL|NULL|NULL",
            "DATACENTER|aws|t|AWS|us-east-1|EC2",
            "MY_LIST|mine|t|NULL|NULL|NULL",
            "TOR|tor|t|NULL|NULL|NULL"
        ]
    );
    assert_eq!(
        db.one(
            "SELECT stated_at = '2026-01-02T03:04:05+00:00' FROM address_types WHERE ip_address = '1.1.1.2'"
        ),
        "t"
    );
}

/// Returns the metric's values by label.
fn metric(db: &mut Session, name: &str) -> Vec<String> {
    db.rows(&format!("SELECT labels ->> 'state', value FROM enrich_metrics WHERE name = '{name}' ORDER BY 1"))
}

#[test]
fn a_list_that_is_too_old_states_nothing_and_shows_in_the_metrics() {
    let cluster = server("types-stale");
    let file = TypesFile::new()
        .list("tor", "TOR", ago(2 * DAY))
        .list("vpn", "VPN", ago(8 * DAY))
        .list("hosting", "DATACENTER", ago(6 * DAY))
        .list("tomorrow", "PROXY", ago(0) + 3 * DAY);
    let file = ["tor", "vpn", "hosting", "tomorrow"]
        .into_iter()
        .fold(file, |file, list| file.entry(list, "8.8.8.0/24"));
    let mut db = with_file(&cluster, &file);
    COWRIE.create_attached(&mut db);
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "DATACENTER");
    let usable = "SELECT list, is_usable, max_age_seconds FROM ip_type_lists() ORDER BY list";
    assert_eq!(db.rows(usable), ["hosting|t|604800", "tomorrow|f|604800", "tor|f|86400", "vpn|f|604800"]);
    assert_eq!(
        db.rows("SELECT list, is_usable FROM ip_type_entries('8.8.8.8') ORDER BY list"),
        ["hosting|t", "tomorrow|f", "tor|f", "vpn|f"]
    );
    db.run("SELECT enrich_ip('8.8.8.8')");
    assert_eq!(db.rows("SELECT source FROM address_types"), ["hosting"]);
    assert_eq!(metric(&mut db, "enrich_ip_type_lists"), ["stale|3", "usable|1"]);
    assert_eq!(metric(&mut db, "enrich_ip_type_files"), ["loaded|1", "missing|0"]);
    let ages = db.rows(
        "SELECT labels ->> 'list', labels ->> 'type', round((value / 86400)::numeric)
         FROM enrich_metrics WHERE name = 'enrich_ip_type_list_age_seconds' AND value > 0 ORDER BY 1",
    );
    assert_eq!(ages, ["hosting|DATACENTER|6", "tor|TOR|2", "vpn|VPN|8"]);

    cymru::reconfigure(&cluster, &["ip_type_max_age = '30 days, TOR: 3 days'"]);
    // A backend looks at the lists once a second.
    let mut n = 0;
    wait_until(
        "the lists count again",
        || {
            n += 1;
            type_of_new(&mut db, &COWRIE, &format!("b{n}"), "8.8.8.8")
        },
        |kind| kind == "VPN",
    );
    assert_eq!(metric(&mut db, "enrich_ip_type_lists"), ["stale|1", "usable|3"]);
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|DATACENTER", "a snapshot stays");
}

#[test]
fn a_snapshot_keeps_the_type_of_its_time() {
    let cluster = server("types-frozen");
    let mut db = with_file(&cluster, &lists());
    COWRIE.create_attached(&mut db);
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "TOR");
    TypesFile::new().list("vpn", "VPN", ago(HOUR)).entry("vpn", "9.0.0.0/8").write(&path(&cluster, "types"));
    db.run("SELECT reload_mmdb()");
    assert_eq!(type_of_new(&mut db, &COWRIE, "b", "8.8.8.8"), "NULL");
    db.run("UPDATE sessions SET snapshot_ip_type = 'MINE' WHERE id = 'a'");
    db.run("CALL backfill_sessions('sessions')");
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|TOR");
    assert_eq!(COWRIE.snapshot(&mut db, "b"), "15169|US|NULL");
}

#[test]
fn files_of_types_make_no_row_due_and_no_session_incomplete() {
    let cluster = server("types-due");
    let mut db = with_file(&cluster, &lists());
    COWRIE.create_attached(&mut db);
    db.run("SELECT enrich_ip('8.8.8.8'); SELECT enrich_ip('1.1.1.2')");
    let rows = "SELECT ip_address, enrichment_updated_at, enrichment FROM ip_inventory ORDER BY 1";
    let before = db.rows(rows);
    lists().list("more", "VPN", ago(HOUR)).entry("more", "8.8.8.8/32").write(&path(&cluster, "types"));
    db.run("SELECT reload_mmdb()");
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "VPN");
    assert_eq!(type_of_new(&mut db, &COWRIE, "b", "1.1.1.2"), "NULL");
    db.run("SELECT enrich_ip('8.8.8.8'); SELECT enrich_ip('1.1.1.2')");
    assert_eq!(db.rows(rows), before);
    assert_eq!(
        db.number(
            "SELECT count(*) FROM ip_inventory WHERE is_source_stale(enrichment, current_asn, 'maxmind')"
        ),
        0
    );
    assert_eq!(db.number("SELECT count(*) FROM incomplete_session"), 0);
    assert_eq!(db.one("SELECT sessions_wait_for_types()"), "f");
}

#[test]
fn sessions_that_arrive_while_a_file_is_replaced_get_an_old_or_a_new_type() {
    let cluster = server("types-replaced");
    let file = |kind: &str| TypesFile::new().list("list", kind, ago(HOUR)).entry("list", "8.8.8.0/24");
    let mut db = with_file(&cluster, &file("TOR"));
    COWRIE.create_attached(&mut db);
    let mut writer = db.another();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (file, cluster, is_over) = (&file, &cluster, &is_over);
        let mut reloader = db.another();
        scope.spawn(move || {
            for n in 0.. {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                file(if n % 2 == 0 { "VPN" } else { "TOR" }).write(&path(cluster, "types"));
                reloader.run("SELECT reload_mmdb()");
            }
        });
        let mut n = 0;
        wait_until(
            "both types were seen",
            || {
                let rows: Vec<(String, String)> = (0..50)
                    .map(|i| (format!("s{}", n * 50 + i), format!("8.8.8.{}", (n + i) % 250)))
                    .collect();
                n += 1;
                let rows: Vec<(&str, Option<&str>)> =
                    rows.iter().map(|(key, address)| (key.as_str(), Some(address.as_str()))).collect();
                writer.run(&COWRIE.insert(&rows));
                writer.number("SELECT count(DISTINCT snapshot_ip_type) FROM sessions")
            },
            |seen| *seen == 2,
        );
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(db.number("SELECT count(*) FROM sessions WHERE snapshot_ip_type IS NULL"), 0);
    assert_eq!(
        db.number("SELECT count(*) FROM (SELECT FROM sessions GROUP BY snapshot_ip_type) types"),
        2,
        "no third type"
    );
    cymru::assert_nothing_crashed(&cluster);
}

#[test]
fn a_damaged_or_unsuitable_file_is_refused_and_the_old_copy_stays_in_service() {
    let cluster = server("types-damaged");
    let mut db = with_file(&cluster, &lists());
    COWRIE.create_attached(&mut db);
    let good = fs::read(path(&cluster, "types")).expect("it is there");
    for (n, (bytes, reason)) in [
        (good[..good.len() / 2].to_vec(), "no mmdb metadata"),
        (lists().bytes_with_table("{}"), "format is missing"),
        (world::asn_database().bytes(), "contains no types of addresses"),
        (b"8.8.8.8\n".to_vec(), "no mmdb metadata"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(path(&cluster, "types"), bytes).expect("it can be written");
        let refusal = db.refused("SELECT reload_mmdb()");
        assert_eq!(refusal.code, "XX001");
        let detail = refusal.detail.unwrap_or_default();
        assert!(detail.contains(reason), "{reason}: {detail}");
        assert!(refusal.hint.unwrap_or_default().contains("cowrie_enrich.ip_type_databases"));
        assert!(
            db.one("SELECT last_error FROM mmdb_status() WHERE kind = 'types'").contains(reason),
            "{reason}"
        );
        assert_eq!(type_of_new(&mut db, &COWRIE, &format!("k{n}"), "8.8.8.8"), "TOR");
    }
    // A file with types does not contain networks.
    lists().write(&path(&cluster, "asn"));
    assert_eq!(db.refused("SELECT reload_mmdb()").code, "XX001");
    cymru::assert_nothing_crashed(&cluster);
}

#[test]
fn a_missing_file_is_shown_and_the_others_serve() {
    let cluster = server("types-missing");
    lists().write(&path(&cluster, "types"));
    configure(&cluster, &["nowhere", "types"]);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    assert_eq!(db.refused("SELECT reload_mmdb()").code, "58P01");
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "TOR");
    assert_eq!(metric(&mut db, "enrich_ip_type_files"), ["loaded|1", "missing|1"]);
    assert_eq!(
        db.rows("SELECT loaded_at IS NOT NULL, last_error FROM mmdb_status() WHERE kind = 'types'"),
        ["f|No such file or directory (os error 2)", "t|NULL"]
    );
    for _ in 0..20 {
        db.another().run("SELECT ip_type_entries('8.8.8.8')");
    }
    let refusals = cluster.whole_log().lines().filter(|line| line.contains("refused an mmdb file")).count();
    assert!(refusals <= 1, "{refusals} log lines");
    // The file appears, and no path is needed again.
    TypesFile::new()
        .list("vpn", "VPN", ago(HOUR))
        .entry("vpn", "8.8.8.8/32")
        .write(&path(&cluster, "nowhere"));
    db.run("SELECT reload_mmdb()");
    assert_eq!(type_of_new(&mut db, &COWRIE, "b", "8.8.8.8"), "VPN");
    assert_eq!(metric(&mut db, "enrich_ip_type_files"), ["loaded|2", "missing|0"]);
}

/// Returns the names of the private copies.
fn copies(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.data_dir().join("cowrie_enrich")).expect("it is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name().into_string().expect("ASCII"));
    names.filter(|name| name.starts_with("types-")).collect()
}

#[test]
fn eight_files_serve_in_any_order_and_a_removed_file_states_nothing() {
    let cluster = server("types-eight");
    let kinds = ["MOBILE", "RESIDENTIAL", "DATACENTER", "ANONYMOUS", "RELAY", "PROXY", "TOR", "VPN"];
    let names: Vec<String> = kinds.iter().map(|kind| kind.to_ascii_lowercase()).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (n, kind) in kinds.iter().enumerate() {
        let list = names[n];
        TypesFile::new().list(list, kind, ago(HOUR)).entry(list, "8.8.8.0/24").write(&path(&cluster, list));
    }
    configure(&cluster, &names);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run("SELECT reload_mmdb()");
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "VPN");
    assert_eq!(entries(&mut db, "8.8.8.8").len(), 8);
    assert_eq!(copies(&cluster).len(), 16);
    let loaded = "SELECT DISTINCT loaded_at FROM mmdb_status() WHERE kind = 'types' ORDER BY 1";
    let before = db.rows(loaded);

    names.reverse();
    configure(&cluster, &names);
    let mut db = db.another();
    assert_eq!(entries(&mut db, "8.8.8.8")[0], "VPN|vpn|NULL|NULL|NULL|t");
    assert_eq!(db.rows(loaded), before, "no file was copied again");

    configure(&cluster, &names[1..]);
    let mut db = cluster.session(&db.one("SELECT current_database()"));
    assert_eq!(type_of_new(&mut db, &COWRIE, "b", "8.8.8.8"), "TOR");
    assert_eq!(entries(&mut db, "8.8.8.8").len(), 7);
    // The copies of the removed file are kept for an hour.
    db.run("SELECT reload_mmdb()");
    assert_eq!(copies(&cluster).len(), 16);
    let long_ago = SystemTime::now() - Duration::from_secs(2 * HOUR);
    for name in copies(&cluster) {
        let file = fs::File::options().write(true).open(cluster.data_dir().join("cowrie_enrich").join(name));
        file.expect("it can be opened").set_modified(long_ago).expect("own file");
    }
    db.run("SELECT reload_mmdb()");
    assert_eq!(copies(&cluster).len(), 14);
    assert_eq!(type_of_new(&mut db, &COWRIE, "c", "8.8.8.8"), "TOR");
}

#[test]
fn files_are_off_with_the_source_maxmind() {
    let cluster = server("types-off");
    let mut db = with_file(&cluster, &lists());
    COWRIE.create_attached(&mut db);
    cymru::reconfigure(&cluster, &["enabled_sources = 'cymru'"]);
    let mut db = db.another();
    assert_eq!(type_of_new(&mut db, &COWRIE, "a", "8.8.8.8"), "NULL");
    assert_eq!(entries(&mut db, "8.8.8.8"), [""; 0]);
}

#[test]
fn a_standby_knows_the_types() {
    let primary = server("types-primary");
    let mut db = with_file(&primary, &lists());
    db.run("SELECT enrich_ip('8.8.8.8')");
    let standby = primary.standby(&Options::named("types-standby"));
    let mut there = standby.session(&db.name);
    assert_eq!(there.one("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(there.rows("SELECT type FROM ip_type_entries('8.8.8.8')"), ["TOR", "DATACENTER", "MY_LIST"]);
    assert_eq!(there.number("SELECT count(*) FROM address_types"), 3);
    assert_eq!(there.number("SELECT count(*) FROM ip_type_lists() WHERE is_usable"), 4);
    // A standby loads new files by itself.
    TypesFile::new().list("vpn", "VPN", ago(HOUR)).entry("vpn", "8.8.8.8/32").write(&path(&primary, "types"));
    there.run("SELECT reload_mmdb()");
    assert_eq!(there.rows("SELECT type FROM ip_type_entries('8.8.8.8')"), ["VPN"]);
}

#[test]
fn greynoise_is_not_asked_about_known_research_scanners() {
    let lab = Plan::of("types-scanners", "maxmind,greynoise").start();
    let addresses = members(0..4);
    let file = |published| {
        let file =
            TypesFile::new().list("research", "SCANNER_BENIGN", published).list("vpn", "VPN", published);
        let file = file.entry("research", &format!("{}/32", addresses[0]));
        file.entry("research", &format!("{}/32", addresses[1])).entry("vpn", &format!("{}/32", addresses[2]))
    };
    file(ago(HOUR)).write(&path(&lab.cluster, "types"));
    configure(&lab.cluster, &["types"]);
    let mut db = lab.database();
    db.run("SELECT reload_mmdb()");
    SUMMARIES.create_attached(&mut db);
    for (n, address) in addresses.iter().enumerate() {
        db.run(&SUMMARIES.insert(&[(&format!("k{n}"), Some(&address.to_string()))]));
    }
    // A request that was inserted by hand is dropped too.
    db.run(&format!(
        "INSERT INTO enrich.enrichment_request (ip_address, provider) VALUES ('{}', 'greynoise')",
        addresses[1]
    ));
    wait_until("the others are asked", || asked(&lab.greynoise).len(), |asked| *asked >= 2);
    wait_for_the_queue(&mut db);
    let mut requests = asked(&lab.greynoise);
    requests.sort();
    assert_eq!(requests, addresses[2..]);
    assert_eq!(SUMMARIES.snapshot(&mut db, "k0").rsplit('|').next(), Some("SCANNER_BENIGN"));
    let refusal = db.refused(&format!("SELECT enrich.request_enrichment('{}', 'greynoise')", addresses[0]));
    assert_eq!(refusal.code, "22023");
    assert!(refusal.detail.unwrap_or_default().contains("SCANNER_BENIGN"));
    db.run("CALL enrich.refresh_stale('greynoise')");
    wait_for_the_queue(&mut db);
    assert_eq!(asked(&lab.greynoise).len(), 2);

    // GreyNoise is asked about an address again when the list of scanners is too old.
    file(ago(30 * DAY)).write(&path(&lab.cluster, "types"));
    db.run("SELECT enrich.reload_mmdb()");
    // The worker checks the files once a second, and drops lookups that it may not send.
    let ask = || {
        request(&mut db, "greynoise", &addresses[..1]);
        wait_for_the_queue(&mut db);
        asked(&lab.greynoise)
    };
    wait_until("it is asked now", ask, |asked| asked.contains(&addresses[0]));
    lab.assert_nothing_crashed();
}

#[test]
fn the_classification_of_the_python_system_is_a_type_until_it_is_too_old() {
    let cluster = server("types-classified");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let classified = |kind: &str, age: &str| {
        format!(
            "jsonb_build_object('ip_classification', jsonb_build_object('ip_type', '{kind}', 'provider', 'aws',
                 'confidence', 0.9, 'source', 'x', 'classified_at', now() - interval '{age}'))"
        )
    };
    for (kind, expected) in [
        ("tor", "{TOR}"),
        ("cloud", "{DATACENTER}"),
        ("datacenter", "{DATACENTER}"),
        ("residential", "{RESIDENTIAL}"),
        ("unknown", "{}"),
        ("", "{}"),
    ] {
        assert_eq!(
            db.one(&format!("SELECT ip_types_of({})", classified(kind, "1 hour"))),
            expected,
            "{kind}"
        );
    }
    for malformed in ["null", "[]", "\"tor\"", "{\"ip_type\": 1}", "{\"ip_type\": {\"a\": \"tor\"}}"] {
        let types = db.one(&format!("SELECT ip_types_of('{{\"ip_classification\": {malformed}}}')"));
        assert_eq!(types, "{}", "{malformed}");
    }
    for (n, (kind, age, expected)) in [
        ("tor", "1 hour", "TOR"),
        ("tor", "2 days", "NULL"),
        ("cloud", "2 days", "DATACENTER"),
        ("cloud", "300 days", "NULL"),
        ("unknown", "1 hour", "NULL"),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("8.8.8.{n}");
        db.run(&format!(
            "SELECT enrich_ip('{address}');
             UPDATE ip_inventory SET enrichment = enrichment || {} WHERE ip_address = '{address}'",
            classified(kind, age)
        ));
        assert_eq!(type_of_new(&mut db, &COWRIE, &format!("k{n}"), &address), expected, "{kind}, {age}");
    }
    assert_eq!(
        db.rows("SELECT type, source, provider FROM address_types WHERE ip_address = '8.8.8.2'"),
        ["DATACENTER|ip_classification|aws"]
    );
}

#[test]
fn invalid_settings_are_refused_with_a_hint() {
    let cluster = server("types-settings");
    let mut db = fresh_database(&cluster);
    let thirty_three: Vec<String> = (0..33).map(|n| format!("/a{n}")).collect();
    for (setting, value, detail, hint) in [
        ("ip_type_max_age", "TOR", "Each age must be a number and a unit", "7 days, TOR: 1 day"),
        ("ip_type_max_age", "0 days", "shorter than 1 minute", "7 days, TOR: 1 day"),
        ("ip_type_max_age", "tor: 1 day", "A type must consist of capital letters", "7 days, TOR: 1 day"),
        ("ip_type_databases", "/a,,/b", "an empty path", "single commas"),
        ("ip_type_databases", "/a, /a", "a path twice", "single commas"),
        ("ip_type_databases", &thirty_three.join(","), "more than 32 paths", "single commas"),
    ] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.{setting} = '{value}'"));
        assert_eq!(refusal.code, "22023", "{value}");
        assert!(refusal.detail.unwrap_or_default().contains(detail), "{value}");
        assert!(refusal.hint.unwrap_or_default().contains(hint), "{value}");
    }
    assert_eq!(db.one("SHOW cowrie_enrich.ip_type_max_age"), "7 days, TOR: 1 day");
}
