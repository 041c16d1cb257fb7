//! CALL refresh_stale(): requests new answers after their lifetime, those of the most active addresses first.

use std::sync::Once;

use cowrie_enrich_upstreams::synthetic_asn;
use server_tests::cymru::{Lab, members, reconfigure, wait_for_the_queue};
use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::{self, Files, asn_record};
use server_tests::{Database, Options, Session, fresh_database, shared, wait_until};

/// Inserts addresses as they are known after a while: ip, network, sessions, document.
fn load(db: &mut Session, rows: &[(&str, Option<u32>, u32, String)]) {
    for (ip, asn, sessions, document) in rows {
        let asn = asn.map_or("NULL".to_owned(), |asn| asn.to_string());
        db.run(&format!(
            "INSERT INTO asn_inventory (asn_number) SELECT {asn} WHERE {asn} IS NOT NULL ON CONFLICT DO NOTHING;
             INSERT INTO ip_inventory (ip_address, current_asn, session_count, enrichment)
             VALUES ('{ip}', {asn}, {sessions}, '{document}')"
        ));
    }
}

/// Returns a new database on a server that may use GreyNoise, too. No worker runs there.
fn database() -> Database<'static> {
    static ENABLED: Once = Once::new();
    ENABLED.call_once(|| reconfigure(shared(), &["enabled_sources = 'maxmind,cymru,greynoise'"]));
    server_tests::database()
}

/// Returns the time `days` ago in the format of documents.
fn ago(db: &mut Session, days: u32) -> String {
    db.one(&format!(
        "SELECT to_char((now() - interval '{days} days') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
    ))
}

fn value(source: &str, at: &str) -> String {
    format!(
        r#"{{"{source}": {{"cached_at": "{at}"}}, "_meta": {{"{source}": {{"state": "value", "asked_at": "{at}"}}}}}}"#
    )
}

fn absent(source: &str, at: &str, until: &str) -> String {
    format!(
        r#"{{"_meta": {{"{source}": {{"state": "absent", "asked_at": "{at}", "retry_after": "{until}"}}}}}}"#
    )
}

fn queued(db: &mut Session, provider: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT host(ip_address) FROM enrichment_request WHERE provider = '{provider}' ORDER BY 1"
    ))
}

fn result(db: &mut Session) -> serde_json::Value {
    db.one("SELECT result FROM procedure_call WHERE procedure = 'refresh_stale'").parse().expect("JSON")
}

#[test]
fn whose_lifetime_is_over_is_asked_again_the_most_active_first() {
    let mut db = database();
    let (fresh, old) = (ago(&mut db, 6), ago(&mut db, 8));
    load(
        &mut db,
        &[
            ("60.0.0.1", None, 5, value("greynoise", &old)),
            ("60.0.0.2", None, 90, value("greynoise", &fresh)),
            ("60.0.0.3", None, 70, "{}".to_owned()),
            ("60.0.0.4", None, 5, value("greynoise", "at the weekend")),
            ("60.0.0.5", None, 80, absent("greynoise", &ago(&mut database(), 1), &fresh)),
            ("60.0.0.6", None, 60, absent("greynoise", &fresh, &fresh)),
            ("60.0.0.7", None, 99, r#"{"_meta": {"greynoise": {"state": "failed"}}}"#.to_owned()),
            ("60.0.0.8", None, 98, r#"{"validation": {"is_bogon": true}}"#.to_owned()),
            ("10.0.0.1", None, 97, "{}".to_owned()),
            // GreyNoise's free interface has no IPv6 addresses.
            ("2a10::1", None, 96, "{}".to_owned()),
        ],
    );
    db.run("CALL refresh_stale('greynoise', 2)");
    assert_eq!(result(&mut db), serde_json::json!({"greynoise": 2}));
    assert_eq!(queued(&mut db, "greynoise"), ["60.0.0.3", "60.0.0.6"]);
    // Queued addresses are left out. The next ones follow by activity, then by address.
    db.run("CALL refresh_stale('greynoise', 1)");
    assert_eq!(queued(&mut db, "greynoise"), ["60.0.0.1", "60.0.0.3", "60.0.0.6"]);
    db.run("CALL refresh_stale('greynoise')");
    assert_eq!(queued(&mut db, "greynoise"), ["60.0.0.1", "60.0.0.3", "60.0.0.4", "60.0.0.6"]);
    db.run("CALL refresh_stale('greynoise')");
    assert_eq!(result(&mut db), serde_json::json!({"greynoise": 0}));
    assert_eq!(queued(&mut db, "greynoise").len(), 4);
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request WHERE provider <> 'greynoise'"), 0);
}

#[test]
fn what_waits_as_a_job_or_is_dead_is_left_out() {
    let mut db = database();
    load(
        &mut db,
        &[
            ("60.0.0.1", None, 1, "{}".to_owned()),
            ("60.0.0.2", None, 1, "{}".to_owned()),
            ("60.0.0.3", None, 1, "{}".to_owned()),
        ],
    );
    db.run(
        "INSERT INTO job_address (provider, ip_address, lookup_kind, lookup_key)
         VALUES ('cymru', '60.0.0.1', 'prefix', '60.0.0.0/24'), ('greynoise', '60.0.0.2', 'host', '60.0.0.2');
         INSERT INTO dead_letter
             (provider, ip_address, lookup_kind, lookup_key, priority, attempts, last_error, requested_at)
         VALUES ('cymru', '60.0.0.2', 'prefix', '60.0.0.0/24', 0, 3, 'refused', now())",
    );
    db.run("CALL refresh_stale()");
    assert_eq!(queued(&mut db, "cymru"), ["60.0.0.3"]);
    assert_eq!(queued(&mut db, "greynoise"), ["60.0.0.1", "60.0.0.3"]);
}

/// Repeats the lookup of an address if its network came from Team Cymru or is unknown. Sends no lookup if the
/// network comes only from the mmdb files.
#[test]
fn team_cymru_is_asked_where_it_had_a_say_or_nobody_has() {
    let mut db = database();
    let (fresh, old, year) = (ago(&mut db, 3), ago(&mut db, 91), ago(&mut db, 365));
    load(
        &mut db,
        &[
            ("60.0.0.1", Some(64500), 1, value("cymru", &old)),
            ("60.0.0.2", Some(64500), 1, value("cymru", &fresh)),
            ("60.0.0.3", None, 1, "{}".to_owned()),
            ("60.0.0.4", Some(64500), 1, r#"{"maxmind": {"asn": 64500}}"#.to_owned()),
            ("60.0.0.5", None, 1, absent("cymru", &fresh, &fresh)),
            ("60.0.0.6", None, 1, absent("cymru", &fresh, "9999-01-01T00:00:00.000000+00:00")),
            ("60.0.0.7", None, 1, absent("cymru", &old, "9999-01-01T00:00:00.000000+00:00")),
            ("60.0.0.8", Some(64500), 1, absent("cymru", &year, &old)),
            // As the Python system wrote it.
            ("60.0.0.9", Some(64500), 1, format!(r#"{{"cymru": {{"asn": 64500, "cached_at": "{year}"}}}}"#)),
            ("2a10::1", None, 1, "{}".to_owned()),
        ],
    );
    db.run("CALL refresh_stale('cymru')");
    assert_eq!(
        queued(&mut db, "cymru"),
        ["2a10::1", "60.0.0.1", "60.0.0.3", "60.0.0.5", "60.0.0.7", "60.0.0.9"]
    );
    assert_eq!(result(&mut db), serde_json::json!({"cymru": 6}));
}

/// With the default settings: 9 days for hosts of VPN services, 29.7 for hosting, 180 for internet providers, otherwise 90.
#[test]
fn an_answer_that_names_a_network_expires_by_the_kind_of_the_network() {
    let mut db = database();
    db.run(
        "INSERT INTO asn_inventory (asn_number, asn_type, is_known_hosting, is_known_vpn) VALUES
             (64501, 'HOSTING', true, true), (64502, 'HOSTING', false, false), (64503, 'UNKNOWN', true, false),
             (64504, 'ISP', false, false), (64505, 'ISP', true, false), (64506, 'EDUCATION', false, false)",
    );
    let ages = [8, 10, 29, 31, 89, 91, 179, 181];
    let last_fresh =
        [(64501, 8), (64502, 29), (64503, 29), (64504, 179), (64505, 29), (64506, 89), (64507, 89)];
    let mut expected = Vec::new();
    for (n, age) in ages.into_iter().enumerate() {
        let at = ago(&mut db, age);
        for (network, (asn, fresh_until)) in last_fresh.into_iter().enumerate() {
            let ip = format!("60.0.{network}.{n}");
            load(&mut db, &[(&ip, Some(asn), 1, value("cymru", &at))]);
            if age > fresh_until {
                expected.push(ip);
            }
        }
    }
    db.run("CALL refresh_stale('cymru')");
    expected.sort();
    assert_eq!(queued(&mut db, "cymru"), expected);
    // The lifetime of an answer that names no network does not depend on the network. It is seven days here.
    let (fresh, old) = (ago(&mut db, 6), ago(&mut db, 8));
    load(
        &mut db,
        &[
            ("61.0.0.1", Some(64501), 1, value("greynoise", &fresh)),
            ("61.0.0.2", Some(64504), 1, value("greynoise", &old)),
        ],
    );
    db.run("CALL refresh_stale('greynoise')");
    let queued = queued(&mut db, "greynoise");
    assert!(
        queued.contains(&"61.0.0.2".to_owned()) && !queued.contains(&"61.0.0.1".to_owned()),
        "{queued:?}"
    );
}

#[test]
fn the_percentages_of_lifetimes_change_at_a_reload() {
    let cluster = cluster_with_world(&Options::named("stale-percent"));
    let mut db = fresh_database(&cluster);
    let lifetimes = "SELECT string_agg(answer_lifetime(1000, kind)::text, ',' ORDER BY n)
                     FROM unnest('{vpn,hosting,isp,NULL,other}'::text[]) WITH ORDINALITY k(kind, n)";
    assert_eq!(db.one(lifetimes), "100,330,2000,1000,1000");
    assert_eq!(
        db.one("SELECT answer_lifetime(2147483647, 'isp'), answer_lifetime(NULL, 'isp')"),
        "2147483647|NULL"
    );
    cluster.reconfigure(&[
        "cowrie_enrich.ttl_vpn_percent = 100".to_owned(),
        "cowrie_enrich.ttl_hosting_percent = 50".to_owned(),
        "cowrie_enrich.ttl_isp_percent = 1000".to_owned(),
    ]);
    wait_until(
        "the settings are read",
        || db.one(lifetimes),
        |lifetimes| lifetimes == "1000,500,10000,1000,1000",
    );
}

#[test]
fn malformed_documents_count_as_without_an_answer() {
    let mut db = database();
    let documents = [
        "[]",
        "null",
        "17",
        r#"{"greynoise": 5}"#,
        r#"{"_meta": []}"#,
        r#"{"greynoise": {"cached_at": {}}}"#,
    ];
    for (n, document) in documents.iter().enumerate() {
        load(&mut db, &[(&format!("60.0.0.{n}"), None, 1, (*document).to_owned())]);
    }
    db.run("CALL refresh_stale()");
    assert_eq!(queued(&mut db, "greynoise").len(), documents.len());
    assert_eq!(queued(&mut db, "cymru").len(), documents.len());
    assert_eq!(
        db.rows("SELECT DISTINCT jsonb_typeof(enrichment), enrichment #>> '{_meta,maxmind,state}' FROM ip_inventory"),
        ["object|absent"]
    );
}

#[test]
fn sources_that_cannot_be_refreshed_are_refused() {
    let mut db = database();
    let refusal = db.refused("CALL refresh_stale('shodan')");
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("22023", "invalid source"));
    assert_eq!(refusal.hint.as_deref(), Some("Use one of maxmind, cymru, greynoise, dshield, spur."));
    let refusal = db.refused("CALL refresh_stale('spur')");
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("55000", "source \"spur\" is not enabled")
    );
    for (call, code) in [
        ("refresh_stale('cymru', 0)", "22023"),
        ("refresh_stale('cymru', -1)", "22023"),
        ("refresh_stale(max_ips => 1000001)", "22023"),
        ("refresh_stale(max_ips => NULL)", "22004"),
    ] {
        assert_eq!(db.refused(&format!("CALL {call}")).code, code, "{call}");
    }
    assert_eq!(db.refused("SELECT is_source_stale('{}', NULL, 'shodan')").code, "22023");
    assert_eq!(db.number("SELECT count(*) FROM procedure_call"), 0);
    db.run("CALL refresh_stale()");
    assert_eq!(result(&mut db), serde_json::json!({"maxmind": 0, "cymru": 0, "greynoise": 0}));
}

/// The versions of the rows. Every write creates a new version, even if it changes no value.
const VERSIONS: &str = "
    SELECT 'network', asn_number::text, concat(ctid, xmin, xmax) FROM asn_inventory
    UNION ALL SELECT 'address', host(ip_address), concat(ctid, xmin, xmax) FROM ip_inventory
    UNION ALL SELECT 'history', host(ip_address), concat(ctid, xmin, xmax) FROM ip_asn_history
    UNION ALL SELECT 'pending', asn_number::text, '' FROM network_delta
    UNION ALL SELECT 'request', host(ip_address), provider FROM enrichment_request
    ORDER BY 1, 2, 3";

#[test]
fn a_newer_file_moves_addresses_with_their_history_and_counts() {
    let cluster = cluster_with_world(&Options::named("stale-files"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let crowd: Vec<(String, String)> =
        (0..2_500).map(|n| (format!("k{n}"), world::crowd_member(n))).collect();
    let rows: Vec<_> = crowd.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
    db.run(&COWRIE.insert(&rows));
    db.run(&COWRIE.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("8.8.8.8")),
        ("c", Some("8.8.8.9")),
        ("d", Some("10.0.0.1")),
    ]));
    db.run("CALL fold_statistics(); TRUNCATE enrichment_request");
    db.run("CALL refresh_stale('maxmind')");
    assert_eq!(result(&mut db), serde_json::json!({"maxmind": 0}), "nothing is stale");
    let versions = db.rows(VERSIONS);
    db.run("CALL refresh_stale('maxmind', 1000000)");
    assert!(db.rows(VERSIONS) == versions, "nothing is stale, and something was written");

    let mut networks = world::asn_database().build_epoch(1_800_000_000);
    networks.insert("8.8.8.8/32", asn_record(64_500, "Elsewhere"));
    let files = Files::below(cluster.files());
    networks.write(&files.asn);
    world::city_database().build_epoch(1_800_000_000).write(&files.city);
    // The call puts a newer file into service when its writing has ended. The most active address comes first.
    wait_until(
        "the newer file serves",
        || {
            db.another().run("CALL refresh_stale('maxmind', 1)");
            result(&mut db)
        },
        |result| *result == serde_json::json!({"maxmind": 1}),
    );
    assert_eq!(
        db.rows(
            "SELECT host(ip_address), asn_number, verification_source FROM ip_asn_history
                 WHERE ip_address <<= '8.8.8.0/24' ORDER BY ip_address, observed_at"
        ),
        ["8.8.8.8|15169|maxmind", "8.8.8.8|64500|maxmind", "8.8.8.9|15169|maxmind"]
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_eq!(
        db.rows(
            "SELECT asn_number, organization_name, unique_ip_count, total_session_count FROM asn_inventory
                 WHERE asn_number IN (15169, 64500) ORDER BY 1"
        ),
        ["15169|GOOGLE|1|1", "64500|Elsewhere|1|2"]
    );
    let stale = "SELECT count(*) FROM ip_inventory WHERE is_source_stale(enrichment, current_asn, 'maxmind') AND NOT is_bogon";
    assert_eq!(db.number(stale), 2_501);
    db.run("CALL refresh_stale('maxmind', 1700)");
    assert_eq!(db.number(stale), 801);
    db.run("BEGIN; CALL refresh_stale('maxmind', 1700); COMMIT");
    assert_eq!(result(&mut db), serde_json::json!({"maxmind": 801}));
    assert_eq!(db.number(stale), 0);
    // The same network again adds no line, and only the files were read.
    assert_eq!(db.number("SELECT count(*) FROM ip_asn_history"), 2_503);
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), 0);
    let versions = db.rows(VERSIONS);
    db.run("CALL refresh_stale('maxmind')");
    assert!(db.rows(VERSIONS) == versions);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Makes the answers of these addresses, or the stored answers of their prefixes, this number of days older.
fn age(db: &mut Session, table: &str, days: u32) {
    let shift = |expression: &str| {
        format!(
            "to_char(({expression}::timestamptz - interval '{days} days') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
        )
    };
    match table {
        "ip_inventory" => db.run(&format!(
            "UPDATE enrich.ip_inventory i SET enrichment = jsonb_set(jsonb_set(enrichment, '{{cymru,cached_at}}', to_jsonb({0})),
                 '{{_meta,cymru,asked_at}}', to_jsonb({0}))",
            shift("(i.enrichment #>> '{cymru,cached_at}')")
        )),
        _ => db.run(&format!("UPDATE enrich.block_answer SET asked_at = asked_at - interval '{days} days'")),
    }
}

#[test]
fn the_worker_asks_again_and_an_old_answer_of_a_block_is_no_answer() {
    let lab = Lab::start(
        Options::named("stale-worker").with_worker().conf("cowrie_enrich.enabled_sources = 'maxmind,cymru'"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let addresses = members(0..30);
    let keys: Vec<(String, String)> =
        addresses.iter().enumerate().map(|(n, a)| (format!("k{n}"), a.to_string())).collect();
    let rows: Vec<_> = keys.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
    db.run(&COWRIE.insert(&rows));
    wait_for_the_queue(&mut db);
    let answered_since = "SELECT count(*) FROM enrich.ip_inventory
        WHERE (enrichment #>> '{cymru,cached_at}')::timestamptz > now() - interval '1 hour'";
    assert_eq!(db.number(answered_since), 30);
    let asked = || lab.whois.record().questions_total();
    assert_eq!(asked(), 30);

    // The answer of the address has expired, but the answer of its prefix has not. So no request is needed.
    age(&mut db, "ip_inventory", 100);
    assert_eq!(db.number(answered_since), 0);
    db.run("CALL enrich.refresh_stale('cymru')");
    assert_eq!(result(&mut db), serde_json::json!({"cymru": 30}));
    wait_for_the_queue(&mut db);
    assert_eq!(db.number(answered_since), 30);
    assert_eq!(asked(), 30, "the kept answers are fresh");

    // Both are old, and meanwhile the network has changed.
    age(&mut db, "ip_inventory", 100);
    age(&mut db, "block_answer", 100);
    db.run(&format!(
        "INSERT INTO enrich.asn_inventory (asn_number) VALUES (64500);
         UPDATE enrich.ip_inventory SET current_asn = 64500 WHERE ip_address = '{}'",
        addresses[3]
    ));
    db.run("CALL enrich.refresh_stale('cymru', 1000)");
    wait_for_the_queue(&mut db);
    assert_eq!(asked(), 60, "each block was asked about again, once");
    assert_eq!(db.number(answered_since), 30);
    assert_eq!(
        db.rows(&format!(
            "SELECT asn_number, verification_source FROM enrich.ip_asn_history WHERE ip_address = '{}' ORDER BY observed_at",
            addresses[3]
        )),
        vec![format!("{}|cymru", synthetic_asn(addresses[3])); 2]
    );
    db.run("CALL enrich.build_asn_inventory(progress => false)");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    db.run("CALL enrich.refresh_stale()");
    assert_eq!(result(&mut db), serde_json::json!({"maxmind": 0, "cymru": 0}));
    lab.assert_nothing_crashed();
}

/// The answer of a block has the same lifetime as the answers of its addresses.
#[test]
fn the_answer_of_a_block_is_used_again_as_long_as_the_kind_of_its_network_allows() {
    let lab = Lab::start(
        Options::named("stale-kinds").with_worker().conf("cowrie_enrich.enabled_sources = 'maxmind,cymru'"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let mut networks = std::collections::BTreeSet::new();
    let addresses: Vec<_> = members(0..200)
        .into_iter()
        .filter(|address| networks.insert(synthetic_asn(*address)))
        .take(4)
        .collect();
    let [hosting, isp, unknown, vpn] = addresses[..] else { panic!("four networks") };
    for (n, address) in addresses.iter().enumerate() {
        db.run(&COWRIE.insert(&[(&format!("k{n}"), Some(&address.to_string()))]));
    }
    wait_for_the_queue(&mut db);
    let asked = || lab.whois.record().questions_total();
    assert_eq!(asked(), 4);
    for (address, kind, is_vpn) in [
        (hosting, "HOSTING", false),
        (isp, "ISP", false),
        (unknown, "UNKNOWN", false),
        (vpn, "HOSTING", true),
    ] {
        db.run(&format!(
            "UPDATE enrich.asn_inventory SET asn_type = '{kind}', is_known_hosting = false, is_known_vpn = {is_vpn}
             WHERE asn_number = {}",
            synthetic_asn(address)
        ));
    }
    for (days, renewed, asked_then) in [(8, 0, 4), (2, 1, 5), (50, 2, 7), (40, 3, 10)] {
        age(&mut db, "ip_inventory", days);
        age(&mut db, "block_answer", days);
        db.run("CALL enrich.refresh_stale('cymru')");
        assert_eq!(result(&mut db), serde_json::json!({"cymru": renewed}), "after {days} more days");
        wait_for_the_queue(&mut db);
        assert_eq!(asked(), asked_then, "after {days} more days");
    }
    // The answer of the provider's block is 100 days old. It still serves another address of the block.
    db.run(&format!("SELECT enrich.request_enrichment('{isp}', 'cymru')"));
    wait_for_the_queue(&mut db);
    assert_eq!(asked(), 10);
    lab.assert_nothing_crashed();
}
