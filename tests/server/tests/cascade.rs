//! enrich_ip, enrich_ips and ensure_asn_inventory: the values that they write, merge and keep.

use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::{self, Files, asn_record};
use server_tests::{Options, database, fresh_database, wait_until};

const ROW: &str = "ip_address, current_asn, geo_country, session_count, is_bogon, is_scanner";

#[test]
fn a_new_address_is_attributed_and_written_down() {
    let mut db = database();
    assert_eq!(db.one(&format!("SELECT {ROW} FROM enrich_ip('8.8.8.8')")), "8.8.8.8|15169|US|0|f|f");
    assert_eq!(db.one(&format!("SELECT {ROW} FROM ip_inventory")), "8.8.8.8|15169|US|0|f|f");
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{maxmind,country}', enrichment #>> '{maxmind,city}',
                    enrichment #>> '{maxmind,asn}', enrichment #>> '{maxmind,asn_org}',
                    enrichment #>> '{maxmind,build_epoch}',
                    (enrichment #>> '{maxmind,cached_at}')::timestamptz <= clock_timestamp(),
                    asn_last_verified IS NOT NULL, enrichment_updated_at IS NOT NULL
             FROM ip_inventory"
        ),
        "US|Mountain View|15169|GOOGLE|1700000000|t|t|t"
    );
    assert_eq!(
        db.one("SELECT asn_number, organization_name, asn_type, is_known_hosting FROM asn_inventory"),
        "15169|GOOGLE|HOSTING|t"
    );
    assert_eq!(db.rows("SELECT ip_address, asn_number FROM ip_asn_history"), ["8.8.8.8|15169"]);
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request WHERE provider = 'cymru'"), 0);
    assert_counts_are_exact(&mut db, &[]);
}

#[test]
fn a_fresh_address_is_answered_without_writing() {
    let mut db = database();
    db.run("SELECT enrich_ip('8.8.8.8'); SELECT enrich_ip('10.0.0.1')");
    let state = "SELECT (SELECT string_agg(concat(ctid, xmin), ',' ORDER BY ip_address) FROM ip_inventory),
                        (SELECT string_agg(concat(ctid, xmin), ',') FROM asn_inventory),
                        (SELECT count(*) FROM ip_asn_history),
                        (SELECT count(*) FROM enrichment_request)";
    let before = db.one(state);
    assert_eq!(db.one(&format!("SELECT {ROW} FROM enrich_ip('8.8.8.8')")), "8.8.8.8|15169|US|0|f|f");
    db.run("SELECT * FROM enrich_ips('{8.8.8.8,10.0.0.1}')");
    assert_eq!(db.one(state), before);
}

#[test]
fn force_asks_again_and_records_when() {
    let mut db = database();
    db.run("SELECT enrich_ip('8.8.8.8')");
    let when = "SELECT (enrichment #>> '{maxmind,cached_at}')::timestamptz FROM ip_inventory";
    let before = db.one(when);
    db.run("SELECT enrich_ip('8.8.8.8', true)");
    assert_eq!(db.one(&format!("SELECT ({when}) > '{before}'::timestamptz")), "t");
    // A second answer with the same network adds no row.
    assert_eq!(db.number("SELECT count(*) FROM ip_asn_history"), 1);
}

#[test]
fn a_mapped_address_and_a_host_mask_are_the_address() {
    let mut db = database();
    for text in ["::ffff:8.8.8.8", "8.8.8.8/32", "8.8.8.8", "::ffff:8.8.8.8/128"] {
        assert_eq!(db.one(&format!("SELECT ip_address FROM enrich_ip('{text}')")), "8.8.8.8", "{text}");
    }
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 1);
}

#[test]
fn a_network_is_refused_without_side_effect() {
    let mut db = database();
    for call in
        ["enrich_ip('10.0.0.0/8')", "enrich_ip('8.8.8.0/24', true)", "enrich_ips('{8.8.8.8,8.8.8.0/24}')"]
    {
        let refusal = db.refused(&format!("SELECT {call}"));
        assert_eq!(refusal.code, "22023", "{call}: {refusal:?}");
        assert!(refusal.hint.is_some(), "{call}: {refusal:?}");
    }
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 0);
}

#[test]
fn bogons_stop_the_cascade() {
    let mut db = database();
    assert_eq!(db.one(&format!("SELECT {ROW} FROM enrich_ip('192.168.1.1')")), "192.168.1.1|NULL|XX|0|t|f");
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{validation,is_bogon}',
                    enrichment #>> '{validation,reason}' IS NOT NULL, enrichment ? 'maxmind'
             FROM ip_inventory"
        ),
        "true|t|f"
    );
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request"), 0);
    assert_eq!(db.number("SELECT count(*) FROM ip_asn_history"), 0);
}

#[test]
fn a_missing_network_is_queued_not_fetched() {
    let mut db = database();
    assert_eq!(db.one(&format!("SELECT {ROW} FROM enrich_ip('46.0.0.1')")), "46.0.0.1|NULL|NL|0|f|f");
    assert_eq!(
        db.rows("SELECT DISTINCT ip_address, provider FROM enrichment_request WHERE provider = 'cymru'"),
        ["46.0.0.1|cymru"]
    );
}

#[test]
fn many_addresses_are_enriched_in_one_call() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT ip_address, current_asn, geo_country
             FROM enrich_ips('{8.8.8.8, ::ffff:8.8.8.8, 1.1.1.1, NULL, 2a03:2880::1, 10.0.0.1,
                               48.0.0.1, 1.1.1.1/32}')
             ORDER BY 1"
        ),
        [
            "1.1.1.1|13335|AU",
            "8.8.8.8|15169|US",
            "10.0.0.1|NULL|XX",
            "48.0.0.1|NULL|XX",
            "2a03:2880::1|32934|IE"
        ]
    );
    assert_eq!(db.number("SELECT count(*) FROM ip_inventory"), 5);
    assert_eq!(db.number("SELECT count(*) FROM asn_inventory"), 3);
    assert_eq!(db.rows("SELECT * FROM enrich_ips('{}')"), [""; 0]);
    assert_counts_are_exact(&mut db, &[]);
}

#[test]
fn one_call_and_many_calls_leave_the_same_rows() {
    let mut one = database();
    let mut many = database();
    let addresses: Vec<String> = (0..300).map(world::crowd_member).collect();
    one.run(&format!("SELECT * FROM enrich_ips('{{{},8.8.8.8,10.0.0.1,46.0.0.1}}')", addresses.join(",")));
    many.run(&format!(
        "SELECT enrich_ip(a) FROM unnest('{{{},8.8.8.8,10.0.0.1,46.0.0.1}}'::inet[]) a",
        addresses.join(",")
    ));
    for table in [
        format!(
            "SELECT {ROW}, enrichment #- '{{maxmind,cached_at}}' #- '{{_meta}}'
                 FROM ip_inventory ORDER BY ip_address"
        ),
        "SELECT asn_number, organization_name, organization_country, rir_registry, asn_type
         FROM asn_inventory ORDER BY 1"
            .to_owned(),
        "SELECT ip_address, asn_number, verification_source FROM ip_asn_history ORDER BY 1".to_owned(),
        "SELECT DISTINCT ip_address, provider FROM enrichment_request ORDER BY 1, 2".to_owned(),
    ] {
        assert_eq!(one.rows(&table), many.rows(&table));
    }
    assert_counts_are_exact(&mut one, &[]);
    assert_counts_are_exact(&mut many, &[]);
}

#[test]
fn the_largest_network_number_works_everywhere() {
    let mut db = database();
    assert_eq!(db.one("SELECT current_asn FROM enrich_ip('45.0.0.1')"), "4294967295");
    assert_eq!(
        db.one("SELECT asn_number FROM ensure_asn_inventory(4294967295, 'Last', 'BR', 'LACNIC')"),
        "4294967295"
    );
    assert_eq!(db.one("SELECT classify_asn(4294967295, 'Last Hosting')"), "HOSTING");
    assert_eq!(db.one("SELECT asn_number FROM ip_asn_history"), "4294967295");
    assert_counts_are_exact(&mut db, &[]);
}

#[test]
fn an_address_that_moved_leaves_a_trace() {
    let cluster = cluster_with_world(&Options::named("cascade-moved"));
    let mut db = fresh_database(&cluster);
    db.run("SELECT * FROM enrich_ips('{8.8.8.8,8.8.8.9}'); CALL fold_statistics()");
    let mut networks = world::asn_database().build_epoch(1_800_000_000);
    networks.insert("8.8.8.8/32", asn_record(64_500, "Elsewhere"));
    let files = Files::below(cluster.files());
    networks.write(&files.asn);
    world::city_database().build_epoch(1_800_000_000).write(&files.city);
    db.run("SELECT reload_mmdb()");
    // A newer build makes MaxMind's answer stale, without force.
    assert_eq!(
        db.rows("SELECT ip_address, current_asn FROM enrich_ips('{8.8.8.8,8.8.8.9}') ORDER BY 1"),
        ["8.8.8.8|64500", "8.8.8.9|15169"]
    );
    assert_eq!(
        db.rows("SELECT ip_address, asn_number FROM ip_asn_history ORDER BY ip_address, observed_at"),
        ["8.8.8.8|15169", "8.8.8.8|64500", "8.8.8.9|15169"]
    );
    assert_counts_are_exact(&mut db, &[]);
    assert_eq!(
        db.rows("SELECT asn_number, unique_ip_count FROM asn_inventory ORDER BY 1"),
        ["15169|1", "64500|1"]
    );
    // An older mmdb file, put back by mistake, changes nothing: the newer answer stays stored.
    assert_eq!(
        db.one("SELECT enrichment #>> '{maxmind,build_epoch}' FROM ip_inventory WHERE current_asn = 64500"),
        "1800000000"
    );
}

#[test]
fn sessions_move_with_their_address_to_its_new_network() {
    let cluster = cluster_with_world(&Options::named("cascade-sessions-moved"));
    let mut db = fresh_database(&cluster);
    db.run(
        "CREATE TABLE s (id int, source_ip inet); SELECT attach_session_table('s');
         INSERT INTO s SELECT n, '8.8.8.8' FROM generate_series(1, 7) n;
         CALL fold_statistics();
         INSERT INTO s SELECT n, '8.8.8.8' FROM generate_series(8, 9) n",
    );
    let mut networks = world::asn_database().build_epoch(1_800_000_000);
    networks.insert("8.8.8.8/32", asn_record(64_500, "Elsewhere"));
    networks.write(&Files::below(cluster.files()).asn);
    world::city_database().build_epoch(1_800_000_000).write(&Files::below(cluster.files()).city);
    db.run("SELECT reload_mmdb(); SELECT enrich_ip('8.8.8.8', true)");
    db.run("INSERT INTO s VALUES (10, '8.8.8.8')");
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
    assert_eq!(db.one("SELECT current_asn, session_count FROM ip_inventory"), "64500|10");
    // These attacks came from the old network.
    assert_eq!(db.rows("SELECT snapshot_asn, count(*) FROM s GROUP BY 1 ORDER BY 1"), ["15169|9", "64500|1"]);
}

#[test]
fn metadata_is_filled_where_null_and_replaced_only_by_a_better_source() {
    let mut db = database();
    db.run("SELECT enrich_ip('8.8.8.8')");
    let row = "SELECT organization_name, organization_country, rir_registry FROM asn_inventory
               WHERE asn_number = 15169";
    assert_eq!(db.one(row).split('|').next(), Some("GOOGLE"));
    // A value that a user sets by hand takes precedence over all sources.
    db.run("SELECT ensure_asn_inventory(15169, 'Google LLC', 'us', 'arin')");
    assert_eq!(db.one(row), "Google LLC|US|ARIN");
    db.run("SELECT ensure_asn_inventory(15169)");
    assert_eq!(db.one(row), "Google LLC|US|ARIN");
    db.run("SELECT enrich_ip('8.8.8.8', true); SELECT enrich_ip('8.8.8.9')");
    assert_eq!(db.one(row), "Google LLC|US|ARIN");
}

/// All sources, each with and without `overwrite`.
#[test]
fn ensure_fills_null_and_replaces_sources_but_another_callers_value_only_on_demand() {
    let mut db = database();
    let row = "SELECT organization_name, organization_country, rir_registry, enrichment #>> '{provenance,organization_name}',
                      enrichment #>> '{provenance,rir_registry}' FROM asn_inventory WHERE asn_number = 64500";
    for source in ["cymru", "maxmind", "iana", "import", "document", "manual"] {
        for overwrite in [false, true] {
            db.run(&format!(
                "DELETE FROM asn_inventory;
                 INSERT INTO asn_inventory (asn_number, organization_name, rir_registry, enrichment)
                 VALUES (64500, 'Old', 'ARIN', '{{\"provenance\": {{\"organization_name\": \"{source}\", \"rir_registry\": \"{source}\"}}}}');
                 SELECT ensure_asn_inventory(64500, 'New', 'DE', 'RIPE', {overwrite})"
            ));
            let kept = source == "manual" && !overwrite;
            let expected = if kept { "Old|DE|ARIN|manual|manual" } else { "New|DE|RIPE|manual|manual" };
            assert_eq!(db.one(row), expected, "{source}, overwrite {overwrite}");
        }
    }
    // A caller who confirms the values of a source becomes their source, so that no later answer replaces them.
    for source in ["cymru", "maxmind", "iana", "import", "document"] {
        for overwrite in [false, true] {
            db.run(&format!(
                "DELETE FROM asn_inventory;
                 INSERT INTO asn_inventory (asn_number, organization_name, organization_country, rir_registry, enrichment)
                 VALUES (64500, 'New', 'DE', 'RIPE',
                         '{{\"provenance\": {{\"organization_name\": \"{source}\", \"rir_registry\": \"{source}\"}}}}');
                 SELECT ensure_asn_inventory(64500, 'New', 'DE', 'RIPE', {overwrite})"
            ));
            assert_eq!(db.one(row), "New|DE|RIPE|manual|manual", "{source}, overwrite {overwrite}");
        }
    }
    // Null and an absent argument mean false, and null values of a caller replace nothing.
    db.run("SELECT ensure_asn_inventory(64500, 'Newer', overwrite => NULL); SELECT ensure_asn_inventory(64500, 'Newer')");
    assert_eq!(db.one(row), "New|DE|RIPE|manual|manual");
    db.run("SELECT ensure_asn_inventory(64500, organization_country => 'SE', overwrite => true)");
    assert_eq!(db.one(row), "New|SE|RIPE|manual|manual");
}

/// The second caller has read the network before the first one commits.
#[test]
fn of_two_callers_at_the_same_time_the_second_replaces_nothing() {
    let mut db = database();
    db.run("SELECT enrich_ip('8.8.8.8')");
    for asn in [15169, 64500] {
        let (mut first, mut second) = (db.another(), db.another());
        first.run(&format!("BEGIN; SELECT enrich.ensure_asn_inventory({asn}, 'First', 'DE')"));
        let pid = second.backend_pid();
        let name = std::thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                second.one(&format!(
                    "SELECT organization_name, organization_country FROM enrich.ensure_asn_inventory({asn}, 'Second', 'SE')"
                ))
            });
            wait_until(
                "the second caller waits",
                || {
                    db.one(&format!(
                        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                    ))
                },
                |waits| waits == "t",
            );
            first.run("COMMIT");
            waiting.join().expect("the second caller has its row")
        });
        assert_eq!(name, "First|DE", "AS{asn}");
    }
}

#[test]
fn ensure_creates_and_says_where_from() {
    let mut db = database();
    assert_eq!(
        db.one(
            "SELECT asn_number, organization_name, organization_country, rir_registry, asn_type,
                    unique_ip_count, total_session_count
             FROM ensure_asn_inventory(64500, 'Example University', 'DE', 'ripencc')"
        ),
        "64500|Example University|DE|RIPE|EDUCATION|0|0"
    );
    assert_ne!(
        db.one("SELECT enrichment FROM asn_inventory WHERE asn_number = 64500"),
        "{}",
        "provenance is kept"
    );
    // first_seen stays, last_seen moves on.
    let times = "SELECT first_seen, last_seen FROM asn_inventory WHERE asn_number = 64500";
    let before = db.one(times);
    db.run("SELECT ensure_asn_inventory(64500)");
    let after = db.one(times);
    assert_eq!(before.split('|').next(), after.split('|').next());
    assert_eq!(
        db.one("SELECT organization_name FROM asn_inventory WHERE asn_number = 64500"),
        "Example University"
    );
    assert_eq!(db.one("SELECT asn_type FROM ensure_asn_inventory(64501)"), "UNKNOWN");
}

#[test]
fn every_registry_has_one_spelling() {
    let mut db = database();
    for (n, (given, kept)) in [
        ("arin", "ARIN"),
        ("ripencc", "RIPE"),
        ("RIPE", "RIPE"),
        ("apnic", "APNIC"),
        ("Lacnic", "LACNIC"),
        ("afrinic", "AFRINIC"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            db.one(&format!(
                "SELECT rir_registry FROM ensure_asn_inventory({}, NULL, NULL, '{given}')",
                64_500 + n
            )),
            kept
        );
    }
}

#[test]
fn numbers_and_metadata_out_of_range_are_refused_without_side_effect() {
    let mut db = database();
    for arguments in [
        "0",
        "-1",
        "4294967296",
        "9223372036854775807",
        "64500, 'X', 'Germany'",
        "64500, 'X', '12'",
        "64500, 'X', 'ZZ'",
        "64500, 'X', 'xx'",
        "64500, 'X', 'DE', 'internic'",
    ] {
        let refusal = db.refused(&format!("SELECT ensure_asn_inventory({arguments})"));
        assert!(refusal.code.starts_with("22"), "{arguments}: {refusal:?}");
    }
    assert_eq!(db.number("SELECT count(*) FROM asn_inventory"), 0);
    // The tables reject the same values in direct writes.
    for statement in [
        "INSERT INTO asn_inventory (asn_number) VALUES (0)",
        "INSERT INTO asn_inventory (asn_number) VALUES (4294967296)",
        "INSERT INTO asn_inventory (asn_number, organization_country) VALUES (1, 'de')",
        "INSERT INTO asn_inventory (asn_number, rir_registry) VALUES (1, 'ripencc')",
        "INSERT INTO asn_inventory (asn_number, asn_type) VALUES (1, 'CLOUD')",
        "INSERT INTO ip_inventory (ip_address) VALUES ('10.0.0.0/8')",
    ] {
        let refusal = db.refused(statement);
        assert!(["23514", "22001"].contains(&refusal.code.as_str()), "{statement}: {refusal:?}");
    }
    let refusal = db.refused("INSERT INTO ip_inventory (ip_address, current_asn) VALUES ('1.1.1.1', 5)");
    assert_eq!(refusal.code, "23503");
}

#[test]
fn generated_columns_stand_any_json() {
    let mut db = database();
    db.run("INSERT INTO ip_inventory (ip_address) VALUES ('8.8.8.8')");
    // enrichment, geo_country, ip_types, is_scanner, is_bogon
    for (json, expected) in [
        (r#"{}"#, "XX|{}|f|f"),
        (r#"{"maxmind":{"country":"us"}}"#, "US|{}|f|f"),
        (r#"{"maxmind":{"country":""},"cymru":{"country":"de"}}"#, "DE|{}|f|f"),
        (r#"{"maxmind":{"country":null},"dshield":{"ip":{"ascountry":"fr"}}}"#, "FR|{}|f|f"),
        (r#"{"maxmind":{"country":"Germany"},"cymru":{"country":"DE"}}"#, "DE|{}|f|f"),
        (r#"{"maxmind":"US","cymru":[1],"dshield":{"ip":"x"}}"#, "XX|{}|f|f"),
        (r#"{"maxmind":{"country":{"iso_code":"US"}}}"#, "XX|{}|f|f"),
        (r#"{"greynoise":{"noise":true}}"#, "XX|{}|t|f"),
        (r#"{"greynoise":{"noise":"true"}}"#, "XX|{}|t|f"),
        (r#"{"greynoise":{"noise":"maybe"}}"#, "XX|{}|f|f"),
        (r#"{"greynoise":{"noise":17}}"#, "XX|{}|f|f"),
        (r#"{"greynoise":[]}"#, "XX|{}|f|f"),
        (r#"{"validation":{"is_bogon":true}}"#, "XX|{}|f|t"),
        (r#"{"validation":{"is_bogon":"x"}}"#, "XX|{}|f|f"),
        (r#"[]"#, "XX|{}|f|f"),
        (r#""text""#, "XX|{}|f|f"),
        (r#"null"#, "XX|{}|f|f"),
    ] {
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{json}'"));
        assert_eq!(
            db.one("SELECT geo_country, ip_types, is_scanner, is_bogon FROM ip_inventory"),
            expected,
            "{json}"
        );
    }
    // SPUR's answer has types in three places, each an array, a string or an object.
    for (json, contains) in [
        (r#"{"spur":{"tunnels":[{"type":"VPN"},{"type":"PROXY"}]}}"#, "{VPN,PROXY}"),
        (r#"{"spur":{"infrastructure":"DATACENTER"}}"#, "{DATACENTER}"),
        (r#"{"spur":{"client":{"types":["MOBILE"]}}}"#, "{MOBILE}"),
        (r#"{"spur":{"client":{"types":"DESKTOP"}}}"#, "{DESKTOP}"),
        (r#"{"spur":{"tunnels":{"type":"TOR"}}}"#, "{TOR}"),
    ] {
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{json}'"));
        assert_eq!(
            db.one(&format!("SELECT ip_types @> '{contains}' FROM ip_inventory")),
            "t",
            "{json}: {}",
            db.one("SELECT ip_types FROM ip_inventory")
        );
    }
    for json in [
        r#"{"spur":{"tunnels":[1,null,[],{"type":{}}],"client":7,"infrastructure":{}}}"#,
        r#"{"spur":"x"}"#,
        r#"{"spur":{"client":{"types":[null,""]}}}"#,
    ] {
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{json}'"));
    }
}

#[test]
fn a_session_takes_its_type_from_the_inventory_by_priority() {
    let mut db = database();
    db.run("CREATE TABLE s (id int, source_ip inet); SELECT attach_session_table('s')");
    for (n, (types, expected)) in [
        (r#"["RESIDENTIAL","VPN"]"#, "VPN"),
        (r#"["MOBILE","TOR"]"#, "TOR"),
        (r#"["DATACENTER","PROXY"]"#, "PROXY"),
        (r#"["MOBILE","DATACENTER"]"#, "DATACENTER"),
        (r#"["MOBILE","RESIDENTIAL"]"#, "RESIDENTIAL"),
        (r#"["DESKTOP","MOBILE"]"#, "MOBILE"),
        (r#"["DESKTOP","HEADLESS"]"#, "DESKTOP"),
        (r#"[]"#, "NULL"),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("8.8.8.{n}");
        db.run(&format!(
            "SELECT enrich_ip('{address}');
             UPDATE ip_inventory SET enrichment = jsonb_set(enrichment, '{{spur}}',
                 '{{\"client\":{{\"types\":{types}}}}}') WHERE ip_address = '{address}';
             INSERT INTO s VALUES ({n}, '{address}')"
        ));
        assert_eq!(db.one(&format!("SELECT snapshot_ip_type FROM s WHERE id = {n}")), expected, "{types}");
    }
}

#[test]
fn classification_knows_networks_then_whole_words() {
    let mut db = database();
    for (asn, kind) in [
        (16509, "HOSTING"),
        (14618, "HOSTING"),
        (15169, "HOSTING"),
        (396_982, "HOSTING"),
        (8075, "HOSTING"),
        (20473, "HOSTING"),
        (16276, "HOSTING"),
        (14061, "HOSTING"),
        (24940, "HOSTING"),
        (63949, "HOSTING"),
        (45102, "HOSTING"),
        (132_203, "HOSTING"),
        (13335, "HOSTING"),
    ] {
        assert_eq!(db.one(&format!("SELECT classify_asn({asn}, NULL)")), kind, "AS{asn}");
    }
    for (name, kind) in [
        ("Example Hosting GmbH", "HOSTING"),
        ("Example Datacenter", "HOSTING"),
        ("Acme Cloud Inc", "HOSTING"),
        ("Cloudy Telecom", "ISP"),
        ("Hispanic ISP", "ISP"),
        ("Crisp Foods Ltd", "UNKNOWN"),
        ("Example Broadband", "ISP"),
        ("Deutsche Telekom AG", "ISP"),
        ("University of Example", "EDUCATION"),
        ("Example College", "EDUCATION"),
        ("Government of Example", "GOVERNMENT"),
        ("Some Company", "UNKNOWN"),
        ("", "UNKNOWN"),
    ] {
        assert_eq!(db.one(&format!("SELECT classify_asn(64500, '{name}')")), kind, "{name}");
    }
    assert_eq!(db.one("SELECT classify_asn(64500, NULL)"), "UNKNOWN");
}

#[test]
fn a_job_is_queued_for_known_providers_only() {
    let mut db = database();
    for provider in ["cymru", "greynoise", "dshield", "spur"] {
        db.run(&format!("SELECT request_enrichment('8.8.8.8', '{provider}', 5)"));
    }
    assert_eq!(
        db.rows("SELECT DISTINCT provider, ip_address, priority FROM enrichment_request ORDER BY 1"),
        ["cymru|8.8.8.8|5", "dshield|8.8.8.8|5", "greynoise|8.8.8.8|5", "spur|8.8.8.8|5"]
    );
    let refusal = db.refused("SELECT request_enrichment('8.8.8.8', 'shodan')");
    assert_eq!(refusal.code, "22023", "{refusal:?}");
    let refusal = db.refused("SELECT request_enrichment('8.8.8.0/24', 'cymru')");
    assert_eq!(refusal.code, "22023", "{refusal:?}");
    // No lookup of a bogon is sent, for any caller.
    let _ = db.try_run("SELECT request_enrichment('10.0.0.1', 'cymru')");
    assert_eq!(db.number("SELECT count(*) FROM enrichment_request WHERE ip_address = '10.0.0.1'"), 0);
}

#[test]
fn a_rolled_back_enrichment_leaves_nothing() {
    let mut db = database();
    db.run("BEGIN; SELECT enrich_ip('8.8.8.8'); SELECT enrich_ip('46.0.0.1'); ROLLBACK");
    assert_eq!(
        db.one(
            "SELECT (SELECT count(*) FROM ip_inventory), (SELECT count(*) FROM asn_inventory),
                    (SELECT count(*) FROM enrichment_request),
                    (SELECT count(*) FROM ip_asn_history)"
        ),
        "0|0|0|0"
    );
    assert_counts_are_exact(&mut db, &[]);
}

#[test]
fn counters_move_when_the_work_commits() {
    let cluster = cluster_with_world(&Options::named("cascade-stats"));
    let mut db = fresh_database(&cluster);
    let stats = "SELECT total_ips, cache_hits, maxmind_hits, errors, asn_records_created
                 FROM enrich_stats()";
    db.run("SELECT reset_enrich_stats()");
    assert_eq!(db.one(stats), "0|0|0|0|0");
    db.run("BEGIN; SELECT enrich_ip('8.8.8.8'); ROLLBACK");
    assert_eq!(db.one(stats), "0|0|0|0|0");
    db.run("SELECT enrich_ip('8.8.8.8')");
    assert_eq!(db.one(stats), "1|0|1|0|1");
    db.run("SELECT enrich_ip('8.8.8.8'); SELECT enrich_ip('8.8.8.9')");
    assert_eq!(db.one(stats), "3|1|2|0|1");
    // Another connection sees the same values, because the counters of a preloaded library belong to the
    // server.
    assert_eq!(db.another().one(&stats.replace("FROM ", "FROM enrich.")), "3|1|2|0|1");
    db.run("SELECT reset_enrich_stats()");
    assert_eq!(db.one(stats), "0|0|0|0|0");
}

#[test]
fn addresses_with_the_same_records_share_answers_within_one_transaction_only() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let expected = "SELECT count(*), count(*) FILTER (WHERE
            s.snapshot_asn IS NOT DISTINCT FROM ip_asn(s.ip::inet)
            AND s.snapshot_country IS NOT DISTINCT FROM ip_country(s.ip::inet)
            AND s.enrichment #>> '{maxmind,city}' IS NOT DISTINCT FROM ip_city(s.ip::inet)
            AND s.enrichment #>> '{maxmind,asn_org}' IS NOT DISTINCT FROM ip_asn_org(s.ip::inet)
            AND s.enrichment #>> '{validation,reason}' IS NOT DISTINCT FROM bogon_reason(s.ip::inet)
            AND i.enrichment - '_meta' = COALESCE(s.enrichment, '{}')
            AND (s.enrichment #>> '{maxmind,cached_at}')::timestamptz IS NOT DISTINCT FROM
                CASE WHEN s.enrichment ? 'maxmind' THEN s.enrichment_at END),
        count(DISTINCT s.enrichment_at), count(DISTINCT s.enrichment)
        FROM public.sessions s JOIN ip_inventory i ON i.ip_address = s.ip::inet";
    let others =
        ["8.8.8.8", "8.8.4.4", "10.0.0.1", "10.0.0.2", "192.0.2.1", "2001:4860:4860::8888", "198.18.0.1"];
    let mut stored = 0;
    for transaction in 0..3 {
        let crowd = (0..600).map(|n| world::crowd_member(transaction * 600 + n));
        let addresses =
            crowd.chain(others.iter().filter(|_| transaction == 0).map(|other| (*other).to_owned()));
        let rows: Vec<(String, String)> =
            addresses.enumerate().map(|(n, ip)| (format!("{transaction}-{n}"), ip)).collect();
        let rows: Vec<(&str, Option<&str>)> =
            rows.iter().map(|(key, ip)| (key.as_str(), Some(ip.as_str()))).collect();
        stored += rows.len();
        db.run(&COWRIE.insert(&rows));
    }
    let found = db.one(expected);
    let [count, right, times, documents] =
        <[&str; 4]>::try_from(found.split('|').collect::<Vec<_>>()).expect("four columns");
    assert_eq!(
        [count, right, times],
        [stored.to_string().as_str(), stored.to_string().as_str(), "3"],
        "{found}"
    );
    // Addresses share answers, and there is more than one answer.
    let documents: usize = documents.parse().expect("a number");
    assert!((20..stored).contains(&documents), "{found}");
}
