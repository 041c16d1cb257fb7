//! Import of an installation of the Python system. All valid rows are imported exactly once, even if the import is
//! interrupted. The import uses only the rights of its caller.

use server_tests::database::{cluster_with_world, copy_from};
use server_tests::documentation::sql_with;
use server_tests::python_system::{self, PythonSchema, Size, checksums, sessions_checksum};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Database, Options, Refusal, Session, database, fresh_database, wait_until};

const SIZE: Size = Size { networks: 300, addresses: 5_000, sessions: 6_000 };
const IMPORT: &str = "CALL enrich.import_inventory('old')";

fn installation(schema_kind: PythonSchema, size: Size) -> Database<'static> {
    let mut db = database();
    python_system::create(&mut db, "old", schema_kind);
    python_system::fill(&mut db, "old", 7, size);
    db
}

/// Returns a value that the last call reported, by name.
fn report(session: &mut Session, name: &str) -> i64 {
    session.number(&format!(
        "SELECT result -> '{name}' FROM enrich.procedure_call WHERE procedure = 'import_inventory' AND ended_at IS NOT NULL"
    ))
}

/// Returns everything that an import writes into tables of the extension, without the times of the import.
fn contents(session: &mut Session) -> Vec<String> {
    [
        "SELECT to_jsonb(n) - '{updated_at,created_at,enrichment_updated_at}'::text[] FROM enrich.asn_inventory n ORDER BY asn_number",
        "SELECT to_jsonb(i) - 'updated_at' FROM enrich.ip_inventory i ORDER BY ip_address",
        "SELECT to_jsonb(h) FROM enrich.ip_asn_history h ORDER BY ip_address, asn_number, observed_at",
        "SELECT to_jsonb(r) - 'rejected_at' FROM enrich.rejected_row r ORDER BY relation, row_key, reason",
        "SELECT to_jsonb(s) FROM old.session_summaries s ORDER BY session_id",
        "SELECT result - 'written' FROM enrich.procedure_call WHERE procedure = 'import_inventory'",
        "SELECT count(*) FROM enrich.network_delta",
    ]
    .iter()
    .flat_map(|query| session.rows(query))
    .collect()
}

#[test]
fn rows_that_make_sense_are_all_there_in_both_flavours() {
    for schema_kind in PythonSchema::ALL {
        let mut db = installation(schema_kind, SIZE);
        let before = (checksums(&mut db, "old"), sessions_checksum(&mut db, "old"));
        db.run(IMPORT);
        eprintln!("{schema_kind:?}: {:?}", db.rows("SELECT result FROM enrich.procedure_call"));
        let after = (checksums(&mut db, "enrich"), sessions_checksum(&mut db, "old"));
        assert_eq!(after, before, "{schema_kind:?}");
    }
}

/// Adds rows of every invalid kind. If a type or check of a schema refuses one, the type or check is changed.
fn add_odd_rows(db: &mut Session, schema_kind: PythonSchema) {
    let registry = schema_kind.registry();
    db.run(&format!(
        "ALTER TABLE old.session_summaries DROP CONSTRAINT session_summaries_source_ip_fkey;
         ALTER TABLE old.ip_inventory DROP CONSTRAINT ip_inventory_current_asn_fkey;
         ALTER TABLE old.asn_inventory DROP CONSTRAINT IF EXISTS asn_inventory_asn_number_check;
         ALTER TABLE old.asn_inventory DROP CONSTRAINT IF EXISTS asn_inventory_organization_country_check;
         ALTER TABLE old.session_summaries DROP CONSTRAINT IF EXISTS session_summaries_snapshot_country_check;
         INSERT INTO old.asn_inventory (asn_number, organization_name, organization_country, {registry}, asn_type, first_seen,
                                        last_seen, enrichment) VALUES
             (0, 'Nobody', NULL, NULL, NULL, now(), now(), '{{}}'),
             (-5, 'Negative', NULL, NULL, NULL, now(), now(), '{{}}'),
             (64501, E'Tab\\tbed', 'de', 'ripencc', 'CLOUD', '2024-01-01Z', '2024-02-01Z', '{{\"mine\": 1}}'),
             (64502, 'Odd', '1?', 'other', 'CDN', '2024-01-01Z', '2024-02-01Z', '[1]'),
             (64503, repeat('x', 300), 'XX', '', 'ISP', '2024-01-01Z', '2024-02-01Z', NULL),
             (64504, 'From Cymru', 'US', NULL, 'EDUCATION', '2024-01-01Z', '2024-02-01Z',
                 '{{\"cymru\": {{\"asn\": 64504, \"asn_org\": \"REAL-AS, NL\", \"country\": \"NL\", \"registry\": \"ripencc\"}}}}');
         INSERT INTO old.ip_inventory (ip_address, current_asn, first_seen, last_seen, enrichment, enrichment_updated_at) VALUES
             ('', NULL, now(), now(), '{{}}', NULL),
             ('sensor.example', 64501, now(), now(), '{{\"a\": 1}}', NULL),
             ('198.51.100.0/24', NULL, now(), now(), '{{}}', NULL),
             ('1.2.3.4.5', NULL, now(), now(), '{{}}', NULL),
             (' 81.2.69.1 ', 64501, '2024-01-01Z', '2024-01-02Z', '{{}}', '2024-01-02Z'),
             ('fe80::1%eth0', NULL, '2024-01-01Z', '2024-01-02Z', '{{}}', NULL),
             ('10.1.2.3', NULL, '2024-01-01Z', '2024-01-02Z', '{{}}', '2024-01-02Z'),
             ('81.2.69.2', 64501, '2024-01-02Z', '2024-01-03Z',
                 '{{\"maxmind\": {{\"country\": \"GB\", \"cached_at\": \"2024-01-03T00:00:00+00:00\"}}, \"greynoise\": {{\"noise\": true}}}}', '2024-01-03Z'),
             ('::ffff:81.2.69.2', 64502, '2024-01-01Z', '2024-01-02Z',
                 '{{\"maxmind\": {{\"country\": \"FR\", \"cached_at\": \"2024-01-01T00:00:00+00:00\"}}, \"dshield\": {{\"ip\": {{}}}}}}', '2024-01-04Z'),
             ('2001:DB8:5::1', 64501, '2024-01-01Z', '2024-01-02Z', '{{\"x\": \"first\"}}', '2024-01-04Z'),
             ('2001:db8:5::1', 64501, '2024-01-01Z', '2024-01-02Z', '{{\"x\": \"second\"}}', '2024-01-03Z'),
             ('81.2.69.3', 0, '2024-01-01Z', '2024-01-02Z', '{{}}', NULL),
             ('81.2.69.4', 4199999, '2024-01-01Z', '2024-01-02Z', '[1, 2]', NULL),
             ('81.2.69.5', NULL, '2024-01-01Z', '2024-01-02Z', '\"text\"', NULL),
             ('81.2.69.6', NULL, '2024-01-01Z', '2024-01-02Z', 'null', NULL),
             ('81.2.69.7', NULL, '2024-01-01Z', 'infinity', '{{\"maxmind\": [1], \"cymru\": {{\"asn\": true}}, \"greynoise\": 5}}', '2024-01-04Z');
         INSERT INTO old.ip_asn_history VALUES
             ('81.2.69.2', 64501, '2024-01-03Z', 'maxmind'), ('::ffff:81.2.69.2', 64501, '2024-01-03Z', 'cymru'),
             ('nobody', 64501, '2024-01-03Z', 'maxmind'), ('81.2.69.2', 0, '2024-01-03Z', 'maxmind'),
             ('81.2.69.2', 64502, 'infinity', 'maxmind');
         INSERT INTO old.session_summaries (session_id, source_ip, first_event_at, snapshot_asn, snapshot_country, enrichment) VALUES
             ('odd-1', 'not an ip', '2024-01-01Z', NULL, NULL, NULL), ('odd-2', '', '2024-01-01Z', NULL, NULL, NULL),
             ('odd-3', '81.2.69.2', '2024-01-01Z', -1, '??', '[1]'), ('odd-4', '81.2.69.2', '2024-01-01Z', 64501, 'GB', 'null');",
    ));
    if schema_kind == PythonSchema::Orm {
        // Only a column of type json accepts these.
        db.run(
            r#"INSERT INTO old.ip_inventory (ip_address, first_seen, last_seen, enrichment) VALUES
                 ('81.2.69.8', now(), now(), '{"dshield": {"note": "a\u0000b \ud83d \ud83d\ude00"}}'),
                 ('81.2.69.9', now(), now(), '{"n": 1e200000}');
               INSERT INTO old.session_summaries (session_id, source_ip, enrichment) VALUES
                 ('odd-5', '81.2.69.8', '{"note": "\u0000", "b": "\ud83d"}'), ('odd-6', NULL, '{"n": 1e200000}')"#,
        );
    }
}

/// Returns the rejected rows of a table, without their content.
fn listed(db: &mut Session, table: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT regexp_replace(row_key, ' at [(].*', ''), reason FROM enrich.rejected_row WHERE relation = 'old.{table}' AND procedure = 'import_inventory'
           AND reason <> 'key \"spur\" in column \"enrichment\" is not a JSON object' ORDER BY row_key COLLATE \"C\", reason COLLATE \"C\""
    ))
}

#[test]
fn every_row_is_taken_merged_or_listed() {
    for schema_kind in PythonSchema::ALL {
        let mut db = installation(schema_kind, SIZE);
        add_odd_rows(&mut db, schema_kind);
        let all = ["asn_inventory", "ip_inventory", "ip_asn_history", "session_summaries"]
            .map(|table| db.number(&format!("SELECT count(*) FROM old.{table}")))
            .iter()
            .sum::<i64>();
        db.run(IMPORT);
        let taken: i64 = ["networks", "addresses", "history", "sessions", "merged", "rejected"]
            .iter()
            .map(|name| report(&mut db, name))
            .sum();
        assert_eq!(taken, all, "{schema_kind:?}: {:?}", db.rows("SELECT result FROM enrich.procedure_call"));

        let orm = schema_kind == PythonSchema::Orm;
        assert_eq!(
            listed(&mut db, "asn_inventory"),
            [
                "-5|asn_number is not an ASN",
                "0|asn_number is not an ASN",
                "64502|asn_type is \"CDN\", not a type of network",
                "64502|organization_country is \"1?\", not a country",
                "64502|rir_registry is \"other\", not a registry",
                "64502|the value of column \"enrichment\" is not a JSON object",
            ]
        );
        let mut addresses = vec![
            "\"\"|ip_address is empty",
            "1.2.3.4.5|ip_address is not the address of a single host",
            "198.51.100.0/24|ip_address is not the address of a single host",
            "2001:DB8:5::1|another row has the same address, 2001:db8:5::1; the rows were merged",
            "81.2.69.3|current_asn is \"0\", not an ASN",
            "81.2.69.4|the value of column \"enrichment\" is not a JSON object",
            "81.2.69.5|the value of column \"enrichment\" is not a JSON object",
            "81.2.69.7|cymru.asn is true, not an ASN",
            "81.2.69.7|key \"greynoise\" in column \"enrichment\" is not a JSON object",
            "81.2.69.7|key \"maxmind\" in column \"enrichment\" is not a JSON object",
            "::ffff:81.2.69.2|another row has the same address, 81.2.69.2; the rows were merged",
            "sensor.example|ip_address is not the address of a single host",
        ];
        if orm {
            addresses.insert(
                10,
                "81.2.69.8|enrichment contains characters that jsonb does not support; these characters are omitted or replaced by ?",
            );
            addresses.insert(11, "81.2.69.9|enrichment cannot be read as JSON");
        }
        assert_eq!(listed(&mut db, "ip_inventory"), addresses);
        assert_eq!(
            listed(&mut db, "ip_asn_history"),
            [
                "81.2.69.2 0 2024-01-03T00:00:00.000000+00:00|asn_number is not an ASN",
                "81.2.69.2 64502 |observed_at is missing",
                "::ffff:81.2.69.2 64501 2024-01-03T00:00:00.000000+00:00|an observation of the same address, ASN and time already exists, with source maxmind",
                "nobody 64501 2024-01-03T00:00:00.000000+00:00|ip_address is not an address",
            ]
        );
        let mut sessions = vec![
            "odd-1|source_ip is not an address, so the session is not counted",
            "odd-3|snapshot_asn is \"-1\", not an ASN",
            "odd-3|snapshot_country is \"??\", not a country",
        ];
        if orm {
            sessions.push(
                "odd-5|enrichment contains characters that jsonb does not support; these characters are omitted or replaced by ?",
            );
            sessions.push("odd-6|enrichment cannot be read as JSON");
        }
        assert_eq!(listed(&mut db, "session_summaries"), sessions);
    }
}

#[test]
fn what_is_odd_becomes_what_sense_can_be_made_of_it() {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Orm);
    add_odd_rows(&mut db, PythonSchema::Orm);
    db.run(IMPORT);
    let network =
        "SELECT organization_name, organization_country, rir_registry, asn_type, enrichment - 'provenance',
                          enrichment -> 'provenance' FROM enrich.asn_inventory WHERE asn_number =";
    for (asn, expected) in [
        (
            64501,
            r#"Tabbed|DE|RIPE|HOSTING|{"mine": 1, "import": {"asn_type": "CLOUD", "organization_name": "Tab\tbed"}}|{"rir_registry": "import", "organization_name": "import", "organization_country": "import"}"#,
        ),
        (
            64502,
            r#"Odd|NULL|NULL|UNKNOWN|{"import": {"asn_type": "CDN", "rir_registry": "other", "organization_country": "1?"}}|{"organization_name": "import"}"#,
        ),
        (
            64504,
            r#"From Cymru|NL|RIPE|EDUCATION|{"cymru": {"asn": 64504, "asn_org": "REAL-AS, NL", "country": "NL", "registry": "ripencc"}, "import": {"organization_country": "US"}}|{"rir_registry": "cymru", "organization_name": "import", "organization_country": "cymru"}"#,
        ),
    ] {
        assert_eq!(db.one(&format!("{network} {asn}")), expected);
    }
    assert_eq!(
        db.one(
            "SELECT length(organization_name), length(enrichment #>> '{import,organization_name}'), organization_country, asn_type
             FROM enrich.asn_inventory WHERE asn_number = 64503"
        ),
        "256|300|NULL|ISP"
    );
    // An address had this network, but the Python system's table of networks did not.
    assert_eq!(db.one("SELECT count(*) FROM enrich.asn_inventory WHERE asn_number = 4199999"), "1");

    let address =
        "SELECT current_asn, first_seen, last_seen, enrichment - '_meta', enrichment #>> '{_meta,import,row}'
                   FROM enrich.ip_inventory WHERE ip_address =";
    for (ip, expected) in [
        ("81.2.69.1", r#"64501|2024-01-01 00:00:00+00|2024-01-02 00:00:00+00|{}| 81.2.69.1 "#),
        (
            "fe80::1",
            r#"NULL|2024-01-01 00:00:00+00|2024-01-02 00:00:00+00|{"validation": {"reason": "link-local (RFC 4291)", "is_bogon": true}}|fe80::1%eth0"#,
        ),
        (
            // The later answer of MaxMind is kept. The network comes from the row that was updated last.
            "81.2.69.2",
            r#"64502|2024-01-01 00:00:00+00|2024-01-03 00:00:00+00|{"dshield": {"ip": {}}, "maxmind": {"country": "GB", "cached_at": "2024-01-03T00:00:00+00:00"}, "greynoise": {"noise": true}}|81.2.69.2"#,
        ),
        (
            "2001:db8:5::1",
            r#"64501|2024-01-01 00:00:00+00|2024-01-02 00:00:00+00|{"x": "first", "validation": {"reason": "documentation (RFC 3849)", "is_bogon": true}}|2001:db8:5::1"#,
        ),
        ("81.2.69.3", "NULL|2024-01-01 00:00:00+00|2024-01-02 00:00:00+00|{}|81.2.69.3"),
        ("81.2.69.4", "4199999|2024-01-01 00:00:00+00|2024-01-02 00:00:00+00|{}|81.2.69.4"),
        (
            "81.2.69.7",
            r#"NULL|2024-01-01 00:00:00+00|NULL|{"cymru": {"asn": true}, "maxmind": [1], "greynoise": 5}|81.2.69.7"#,
        ),
    ] {
        assert_eq!(db.one(&format!("{address} '{ip}'")), expected);
    }
    assert_eq!(
        db.one("SELECT enrichment - '_meta' FROM enrich.ip_inventory WHERE ip_address = '81.2.69.8'"),
        r#"{"dshield": {"note": "ab ? 😀"}}"#
    );
    assert_eq!(db.number("SELECT sum(session_count) FROM enrich.ip_inventory"), 0);
    // Snapshots are kept, even invalid ones. A document that is not valid jsonb is kept as a text.
    assert_eq!(
        db.rows("SELECT session_id, snapshot_asn, snapshot_country, enrichment FROM old.session_summaries ORDER BY 1"),
        [
            "odd-1|NULL|NULL|NULL",
            "odd-2|NULL|NULL|NULL",
            "odd-3|-1|??|[1]",
            "odd-4|64501|GB|null",
            r#"odd-5|NULL|NULL|{"b": "?", "note": ""}"#,
            r#"odd-6|NULL|NULL|"{\"n\": 1e200000}""#,
        ]
    );
    assert_eq!(
        db.rows("SELECT asn_number, observed_at, verification_source FROM enrich.ip_asn_history WHERE ip_address = '81.2.69.2' ORDER BY observed_at"),
        ["64501|2024-01-03 00:00:00+00|maxmind", "64502|2024-01-04 00:00:00+00|import"]
    );
}

#[test]
fn nobody_is_asked_again_for_what_was_known() {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Migrations);
    db.run(
        r#"INSERT INTO old.asn_inventory (asn_number, first_seen, last_seen) VALUES (64501, now(), now());
           INSERT INTO old.ip_inventory (ip_address, current_asn, first_seen, last_seen, enrichment, enrichment_updated_at) VALUES
             ('81.2.69.1', NULL, now(), now(), jsonb_build_object('cymru', jsonb_build_object('prefix', '81.2.69.0/24')), now() - interval '2 days'),
             ('81.2.69.2', 64501, now(), now(), jsonb_build_object('greynoise', jsonb_build_object('noise', true, 'cached_at', now() - interval '1 day'),
                 'dshield', '{}'::jsonb), now())"#,
    );
    db.run(IMPORT);
    let is_fresh = |source: &str, ip: &str| {
        format!(
            "SELECT enrich.is_source_fresh(enrichment, '{source}', 604800, 604800) FROM enrich.ip_inventory WHERE ip_address = '{ip}'"
        )
    };
    assert_eq!(db.one(&is_fresh("cymru", "81.2.69.1")), "t");
    assert_eq!(db.one(&is_fresh("greynoise", "81.2.69.1")), "f");
    assert_eq!(db.one(&is_fresh("greynoise", "81.2.69.2")), "t");
    // An empty answer does not count as an answer.
    assert_eq!(db.one(&is_fresh("dshield", "81.2.69.2")), "f");
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{_meta,cymru,state}', (enrichment #>> '{_meta,cymru,asked_at}')::timestamptz = enrichment_updated_at,
                    enrichment #> '{_meta,import}', enrichment_version FROM enrich.ip_inventory WHERE ip_address = '81.2.69.1'"
        ),
        r#"value|t|{"row": "81.2.69.1", "version": "2.2"}|3.0"#
    );
}

#[test]
fn imported_again_it_changes_nothing() {
    for schema_kind in PythonSchema::ALL {
        let mut db = installation(schema_kind, SIZE);
        add_odd_rows(&mut db, schema_kind);
        db.run(IMPORT);
        let written = "SELECT (SELECT count(*) FROM enrich.ip_inventory WHERE xmin::text::bigint > $),
                              (SELECT count(*) FROM enrich.asn_inventory WHERE xmin::text::bigint > $),
                              (SELECT count(*) FROM enrich.ip_asn_history WHERE xmin::text::bigint > $),
                              (SELECT count(*) FROM old.session_summaries WHERE xmin::text::bigint > $)";
        let before = contents(&mut db);
        let last = db.one("SELECT txid_current()");
        db.run(IMPORT);
        assert_eq!(report(&mut db, "written"), 0, "{schema_kind:?}");
        assert_eq!(db.one(&written.replace('$', &last)), "0|0|0|0");
        // Documents of sessions were repaired, so they are not listed again.
        let changed = contents(&mut db);
        let without_report = |all: &[String]| all[..all.len() - 2].to_vec();
        assert!(without_report(&changed) == without_report(&before), "{schema_kind:?}");
    }
}

/// A view prevents the import from changing the table. Before the import fails, it has read all sessions and
/// repaired all documents.
#[test]
fn what_failed_behind_the_last_row_is_counted_as_if_it_had_not() {
    for schema_kind in PythonSchema::ALL {
        let reports = [false, true].map(|is_in_the_way| {
            let mut db = installation(schema_kind, SIZE);
            add_odd_rows(&mut db, schema_kind);
            if is_in_the_way {
                db.run(
                    "CREATE VIEW old.looked AS SELECT snapshot_asn, enrichment FROM old.session_summaries",
                );
                assert_eq!(db.refused(IMPORT).code, "0A000");
                db.run("DROP VIEW old.looked");
            }
            db.run(IMPORT);
            db.one("SELECT result FROM enrich.procedure_call WHERE procedure = 'import_inventory'")
        });
        assert_eq!(reports[1], reports[0], "{schema_kind:?}");
    }
}

#[test]
fn what_we_know_better_stands() {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Migrations);
    db.run(
        r#"SELECT enrich.ensure_asn_inventory(64501, 'By hand', 'CH', NULL);
           SELECT enrich.enrich_ip('8.8.8.8');
           UPDATE enrich.ip_inventory SET enrichment = enrichment || '{"greynoise": {"noise": false, "cached_at": "2024-01-01T00:00:00+00:00"}}';
           INSERT INTO old.asn_inventory (asn_number, organization_name, organization_country, registry, is_known_vpn, first_seen, last_seen) VALUES
             (64501, 'By the Python system', 'DE', 'ripencc', true, '2020-01-01Z', '2020-01-02Z'), (15169, 'Google of old', 'BR', 'arin', false, '2020-01-01Z', '2020-01-02Z');
           INSERT INTO old.ip_inventory (ip_address, current_asn, first_seen, last_seen, enrichment, enrichment_updated_at, created_at) VALUES
             ('8.8.8.8', 64501, '2020-01-01Z', '2020-01-02Z',
              '{"maxmind": {"country": "BR", "cached_at": "2020-01-02T00:00:00Z"}, "greynoise": {"noise": true, "cached_at": "2024-02-01T00:00:00Z"}, "spur": {"tunnels": [{"type": "VPN"}]}}',
              '2024-02-01Z', '2020-01-01Z')"#,
    );
    db.run(IMPORT);
    assert_eq!(
        db.rows("SELECT asn_number, organization_name, organization_country, rir_registry, is_known_vpn, first_seen FROM enrich.asn_inventory ORDER BY 1"),
        [
            "15169|GOOGLE|US|ARIN|f|2020-01-01 00:00:00+00",
            "64501|By hand|CH|RIPE|t|2020-01-01 00:00:00+00"
        ]
    );
    assert_eq!(
        db.one("SELECT current_asn, geo_country, is_scanner, ip_types, first_seen, created_at FROM enrich.ip_inventory"),
        "15169|US|t|{VPN}|2020-01-01 00:00:00+00|2020-01-01 00:00:00+00"
    );
    // No address changed its network.
    assert_eq!(
        db.rows("SELECT asn_number, verification_source FROM enrich.ip_asn_history"),
        ["15169|maxmind"]
    );
    // In the Python system the country of a network is that of an address. A source of the extension replaces it.
    db.run("INSERT INTO old.asn_inventory (asn_number, organization_country, first_seen, last_seen) VALUES (13335, 'BR', now(), now())");
    db.run(IMPORT);
    db.run("SELECT enrich.enrich_ip('1.1.1.1')");
    assert_eq!(
        db.one("SELECT organization_country <> 'BR', enrichment #>> '{provenance,organization_country}' FROM enrich.asn_inventory WHERE asn_number = 13335"),
        "t|maxmind"
    );
}

#[test]
fn killed_at_any_moment_and_called_again_it_ends_as_if_it_had_not_been() {
    const ROUNDS: usize = 8;
    let size = Size { networks: 2_500, addresses: 15_000, sessions: 12_000 };
    let cluster = cluster_with_world(&Options::named("import-kills").conf("restart_after_crash = on"));
    let seed =
        std::env::var("COWRIE_ENRICH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            u64::from(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |d| d.subsec_nanos()),
            )
        });
    eprintln!("COWRIE_ENRICH_SEED={seed}");
    let mut random = Random::seeded(seed);
    // The original is created once and then copied. No connection to it may be open.
    let original = prepared(&cluster, size);
    let expected = {
        let mut db = copy_from(&cluster, &original);
        db.run(IMPORT);
        contents(&mut db)
    };
    let total = (size.networks + size.addresses * 39 / 20 + size.sessions) as i64;
    let mut phases = std::collections::BTreeSet::new();
    for round in 0..ROUNDS {
        let name = copy_from(&cluster, &original).name.clone();
        let mut session = cluster.session(&name);
        let pid = session.backend_pid();
        let call = std::thread::spawn(move || session.try_run(IMPORT));
        // Waits until a share of the work is done, then kills the call. The share grows with each round, and is
        // partly random.
        let share = total * (round as i64 * 100 / ROUNDS as i64 + random.below(12) as i64) / 100;
        let mut watcher = cluster.session(&name);
        wait_until(
            "so much is done",
            || {
                watcher.number(
                    "SELECT (SELECT count(*) FROM enrich.asn_inventory) + (SELECT count(*) FROM enrich.ip_inventory)
                         + (SELECT count(*) FROM enrich.ip_asn_history)
                         + coalesce((SELECT done FROM enrich.enrich_progress WHERE phase = 'session_summaries'), 0)
                         + (SELECT count(*) * 1000000 FROM enrich.procedure_call WHERE ended_at IS NOT NULL)",
                )
            },
            |done| *done >= share,
        );
        phases.extend(watcher.rows("SELECT phase FROM enrich.enrich_progress"));
        drop(watcher);
        let ended = killed_and_called_again(&cluster, &name, pid, call, &expected);
        eprintln!("round {round}: killed after {share} of {total} rows, {ended}");
    }
    // Kills the call while it waits for the lock to change the columns of the sessions.
    let name = copy_from(&cluster, &original).name.clone();
    let mut reader = cluster.session(&name);
    reader.run("BEGIN; LOCK TABLE old.session_summaries IN ACCESS SHARE MODE");
    let mut session = cluster.session(&name);
    let pid = session.backend_pid();
    let call = std::thread::spawn(move || session.try_run(IMPORT));
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted AND mode = 'AccessExclusiveLock'"
    );
    wait_until("it waits for the sessions' table", || reader.number(&waits), |waits| *waits == 1);
    phases.extend(reader.rows("SELECT phase FROM enrich.enrich_progress"));
    drop(reader);
    let ended = killed_and_called_again(&cluster, &name, pid, call, &expected);
    eprintln!("killed while it attached, {ended}");
    assert!(phases.len() >= 3, "it was killed in {phases:?} only");
}

/// Kills a call, calls again, and compares with the result of one uninterrupted run. Returns how far the first call
/// came.
fn killed_and_called_again(
    cluster: &Cluster,
    name: &str,
    pid: i64,
    call: std::thread::JoinHandle<Result<(), Refusal>>,
    expected: &[String],
) -> String {
    cluster.kill_unless_ended(pid);
    let ended = call.join().expect("the thread ends").is_ok();
    let mut session = cluster.session(name);
    let goes_on =
        session.rows("SELECT resume_at -> 'table', resume_at #> '{position,key}' FROM enrich.procedure_call");
    if !ended {
        session.run(IMPORT);
    }
    let found = contents(&mut session);
    let differing: Vec<_> = found.iter().zip(expected).filter(|(a, b)| a != b).take(3).collect();
    let (rows, wanted) = (found.len(), expected.len());
    assert!(
        found == expected,
        "going on at {goes_on:?}: {rows} rows, expected {wanted}, first differences {differing:?}"
    );
    if ended { "at its end".to_owned() } else { format!("goes on at {goes_on:?}") }
}

/// Returns the name of a database with an installation, invalid rows included.
fn prepared(cluster: &Cluster, size: Size) -> String {
    let mut db = fresh_database(cluster);
    python_system::create(&mut db, "old", PythonSchema::Orm);
    python_system::fill(&mut db, "old", 11, size);
    add_odd_rows(&mut db, PythonSchema::Orm);
    // All copies have the same times.
    db.run(
        "UPDATE old.asn_inventory SET created_at = '2025-01-01Z', first_seen = LEAST(first_seen, '2025-01-01Z'), last_seen = LEAST(last_seen, '2025-01-01Z');
         UPDATE old.ip_inventory SET created_at = '2025-01-01Z', first_seen = LEAST(first_seen, '2025-01-01Z'), last_seen = LEAST(last_seen, '2025-01-01Z'),
             enrichment_updated_at = COALESCE(enrichment_updated_at, '2025-01-01Z');
         UPDATE old.asn_inventory SET enrichment_updated_at = '2025-01-01Z';
         UPDATE old.session_summaries SET created_at = '2025-01-01Z', updated_at = '2025-01-01Z'",
    );
    db.name.clone()
}

#[test]
fn the_sessions_stay_where_they_are_and_are_attached() {
    for schema_kind in PythonSchema::ALL {
        let mut db = installation(schema_kind, SIZE);
        db.run(IMPORT);
        assert_eq!(
            db.rows("SELECT rel, ip_column, time_column, has_foreign_key FROM enrich.attached_tables"),
            ["old.session_summaries|source_ip|first_event_at|f"]
        );
        assert_eq!(
            db.rows(
                "SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'old.session_summaries'::regclass
                   AND attname IN ('snapshot_asn', 'enrichment', 'source_ip', 'snapshot_country') ORDER BY 1"
            ),
            ["enrichment|jsonb", "snapshot_asn|bigint", "snapshot_country|character varying", "source_ip|character varying"]
        );
        assert_eq!(db.number("SELECT count(*) FROM pg_constraint WHERE conrelid = 'old.session_summaries'::regclass AND contype = 'f'"), 0);
        // A new session of an address that was not known gets a snapshot, and is counted.
        db.run("INSERT INTO old.session_summaries (session_id, source_ip, first_event_at) VALUES ('new', '8.8.8.8', now())");
        assert_eq!(
            db.one(
                "SELECT snapshot_asn, snapshot_country FROM old.session_summaries WHERE session_id = 'new'"
            ),
            "15169|US"
        );
        db.run("CALL enrich.fold_statistics()");
        assert_eq!(db.one("SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"), "1");
        // The addresses of networks are counted already. Session counts of the Python system are not used.
        let miscounted = db.rows(
            "SELECT a.asn_number, a.unique_ip_count, count(i.*) FROM enrich.asn_inventory a
             LEFT JOIN enrich.ip_inventory i ON i.current_asn = a.asn_number
             GROUP BY a.asn_number HAVING a.unique_ip_count <> count(i.*)",
        );
        assert_eq!(miscounted, [""; 0]);
    }
}

#[test]
fn a_backfill_after_the_import_makes_the_counts_right() {
    for schema_kind in PythonSchema::ALL {
        let mut db = installation(schema_kind, SIZE);
        add_odd_rows(&mut db, schema_kind);
        db.run(IMPORT);
        let snapshots =
            "SELECT md5(string_agg(session_id || snapshot_asn || snapshot_country, ',' ORDER BY session_id))
                         FROM old.session_summaries WHERE snapshot_asn IS NOT NULL AND session_id = ANY ($$)";
        let with =
            db.one("SELECT array_agg(session_id) FROM old.session_summaries WHERE snapshot_asn IS NOT NULL");
        let before = db.one(&snapshots.replace("$$", &format!("'{with}'")));
        db.run("CALL enrich.backfill_sessions('old.session_summaries')");
        assert_counts_are_exact(&mut db, &[("old.session_summaries", "source_ip")]);
        assert_eq!(
            db.one(&snapshots.replace("$$", &format!("'{with}'"))),
            before,
            "{schema_kind:?}: snapshots changed"
        );
        // Sessions without a snapshot in the Python system have one now, if the network of their address is known.
        assert_eq!(
            db.number(
                "SELECT count(*) FROM old.session_summaries s
                 JOIN enrich.ip_inventory i ON i.ip_address = enrich.session_address(s.source_ip)
                 WHERE s.snapshot_asn IS NULL AND i.current_asn IS NOT NULL"
            ),
            0
        );
        db.run("CALL enrich.refresh_session_counts()");
        assert_counts_are_exact(&mut db, &[("old.session_summaries", "source_ip")]);
        // A second import counts nothing twice.
        db.run(IMPORT);
        assert_counts_are_exact(&mut db, &[("old.session_summaries", "source_ip")]);
    }
}

#[test]
fn tables_and_columns_may_be_missing_or_of_the_neighbouring_type() {
    let mut db = database();
    // The tables have the types of the Python system's document ADR-007, no keys, and rows that keys would refuse.
    db.run(
        "CREATE SCHEMA old;
         CREATE TABLE old.ip_inventory (ip_address inet, current_asn bigint, enrichment text, last_seen timestamp);
         INSERT INTO old.ip_inventory SELECT '23.1.0.1', 64501, '{\"a\": 1}', '2025-01-02' FROM generate_series(1, 4500);
         INSERT INTO old.ip_inventory SELECT NULL, n, NULL, NULL FROM generate_series(1, 4500) n;
         INSERT INTO old.ip_inventory VALUES ('10.0.0.0/8', NULL, NULL, NULL), ('2001:db8::1', 4294967295, 'no json', NULL),
             ('23.1.0.2', 4294967296, NULL, NULL), ('::ffff:23.1.0.1', NULL, NULL, NULL);
         CREATE TABLE old.session_summaries (session_id bigserial PRIMARY KEY, source_ip inet, first_event_at date, enrichment varchar(4000));
         INSERT INTO old.session_summaries (source_ip, first_event_at, enrichment) VALUES ('23.1.0.1', '2025-01-02', '{\"b\": 2}'), (NULL, NULL, 'no json')",
    );
    db.run(IMPORT);
    assert_eq!(
        db.rows("SELECT ip_address, current_asn, last_seen, enrichment - '_meta' - 'validation' FROM enrich.ip_inventory ORDER BY 1"),
        [
            r#"23.1.0.1|64501|2025-01-02 00:00:00+00|{"a": 1}"#,
            "23.1.0.2|NULL|NULL|{}",
            "2001:db8::1|4294967295|NULL|{}"
        ]
    );
    assert_eq!(
        db.rows("SELECT snapshot_asn, enrichment FROM old.session_summaries ORDER BY session_id"),
        [r#"NULL|{"b": 2}"#, r#"NULL|"no json""#]
    );
    // 4500 rows are merged: all but one of the equal rows, and one row with another spelling. 4501 rows are
    // rejected: 4500 rows without an address, and one with a network in place of an address.
    assert_eq!(report(&mut db, "addresses"), 3);
    assert_eq!(report(&mut db, "merged"), 4500);
    assert_eq!(report(&mut db, "rejected"), 4501);
    assert_eq!(
        db.rows("SELECT reason, count(*) FROM enrich.rejected_row WHERE relation = 'old.ip_inventory' GROUP BY 1 ORDER BY 1"),
        [
            "another row has the same address, 23.1.0.1; the rows were merged|2",
            "current_asn is \"4294967296\", not an ASN|1",
            "enrichment cannot be read as JSON|1",
            "ip_address is empty|4500",
            "ip_address is not the address of a single host|1",
        ]
    );
}

/// K1.
#[test]
fn the_first_of_a_list_of_types_becomes_the_type_of_the_session() {
    for (list, first, none) in [
        ("text[]", "'{VPN,PROXY}'", "'{}'"),
        ("varchar(20)[]", "'{VPN,PROXY}'", "'{}'"),
        ("jsonb", "'[\"VPN\", \"PROXY\"]'", "'[]'"),
        ("json", "'[\"VPN\", \"PROXY\"]'", "'[]'"),
    ] {
        for column in ["snapshot_ip_type text,", ""] {
            let mut db = database();
            db.run(&format!(
                "CREATE SCHEMA old;
                 CREATE TABLE old.session_summaries (session_id text PRIMARY KEY, source_ip inet, {column} snapshot_ip_types {list});
                 INSERT INTO old.session_summaries (session_id, source_ip, snapshot_ip_types)
                 VALUES ('first', '23.1.0.1', {first}), ('none', '23.1.0.2', {none}), ('unknown', '23.1.0.3', NULL)"
            ));
            if !column.is_empty() {
                db.run(&format!(
                    "INSERT INTO old.session_summaries VALUES ('kept', '23.1.0.4', 'TOR', {first})"
                ));
            }
            let notices = db.notices(IMPORT);
            assert!(
                notices
                    .contains("column snapshot_ip_type gets the first element of column snapshot_ip_types"),
                "{list}: {notices}"
            );
            let types = db.rows("SELECT session_id, snapshot_ip_type FROM old.session_summaries WHERE session_id <> 'kept' ORDER BY 1");
            assert_eq!(types, ["first|VPN", "none|NULL", "unknown|NULL"], "{list}");
            let kept =
                db.rows("SELECT snapshot_ip_type FROM old.session_summaries WHERE session_id = 'kept'");
            assert_eq!(kept, if column.is_empty() { vec![] } else { vec!["TOR"] }, "{list}");
            // A second call rewrites nothing.
            let file = "SELECT pg_relation_filenode('old.session_summaries')";
            let before = db.one(file);
            assert!(!db.notices(IMPORT).contains("rewritten"), "{list}");
            assert_eq!(db.one(file), before, "{list}");
        }
    }
}

#[test]
fn a_list_of_types_that_is_no_list_is_named() {
    let mut db = database();
    db.run(
        "CREATE SCHEMA old;
         CREATE TABLE old.session_summaries (session_id text PRIMARY KEY, source_ip inet, snapshot_ip_types text);
         INSERT INTO old.session_summaries VALUES ('a', '23.1.0.1', 'VPN,PROXY')",
    );
    let notices = db.notices(IMPORT);
    assert!(
        notices.contains("column snapshot_ip_types of old.session_summaries is not imported"),
        "{notices}"
    );
    assert_eq!(db.one("SELECT snapshot_ip_type FROM old.session_summaries"), "NULL");
}

#[test]
fn what_cannot_be_imported_is_refused_before_anything_is_done() {
    let mut db = database();
    let refusal = |db: &mut Session, call: &str| {
        let refusal = db.refused(call);
        db.run("ROLLBACK");
        assert_eq!(
            db.number("SELECT count(*) FROM enrich.procedure_call WHERE procedure = 'import_inventory'"),
            0
        );
        format!("{} {}", refusal.code, refusal.message)
    };
    db.run("CREATE SCHEMA empty");
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('nowhere')"),
        "3F000 schema \"nowhere\" does not exist"
    );
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory(NULL)"),
        "22004 argument \"source_schema\" must not be null"
    );
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('enrich')"),
        "22023 could not import from schema \"enrich\", which is the schema of the extension"
    );
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('empty')"),
        "42P01 schema \"empty\" contains no table of cowrieprocessor (the Python system that this extension replaces)"
    );
    assert!(db.refused("CALL enrich.import_inventory('empty')").hint.is_some());

    python_system::create(&mut db, "old", PythonSchema::Orm);
    assert_eq!(
        refusal(&mut db, &format!("BEGIN; {IMPORT}")),
        "25001 import_inventory() cannot run inside a transaction block"
    );
    db.run("CREATE SCHEMA views; CREATE VIEW views.ip_inventory AS SELECT * FROM old.ip_inventory");
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('views')"),
        "42809 ip_inventory is not a table that can be imported"
    );
    db.run("CREATE SCHEMA other; CREATE TABLE other.ip_inventory (ip text)");
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('other')").split_once(' ').map(|(code, _)| code),
        Some("42703")
    );
    db.run("CREATE SCHEMA arrays; CREATE TABLE arrays.session_summaries (session_id int, source_ip text, snapshot_ip_type text[])");
    assert_eq!(
        refusal(&mut db, "CALL enrich.import_inventory('arrays')"),
        "42804 column snapshot_ip_type of session_summaries has type text[], but must have type text"
    );
}

#[test]
fn only_a_superuser_or_the_extensions_owner_imports_and_only_what_is_theirs() {
    let mut db = installation(PythonSchema::Orm, Size { networks: 10, addresses: 50, sessions: 50 });
    db.run("CREATE ROLE import_owner LOGIN; CREATE ROLE import_other LOGIN; GRANT USAGE ON SCHEMA enrich, old TO import_owner, import_other");
    assert_eq!(db.session_as("import_owner").refused(IMPORT).code, "42501");
    db.run("GRANT EXECUTE ON PROCEDURE enrich.import_inventory(name) TO import_owner, import_other");
    for table in ["asn_inventory", "ip_inventory", "ip_asn_history", "session_summaries"] {
        db.run(&format!("ALTER TABLE old.{table} OWNER TO import_owner"));
    }
    let refusal = db.session_as("import_owner").refused(IMPORT);
    assert_eq!(refusal.message, "permission denied for procedure import_inventory");
    db.run("GRANT postgres TO import_owner, import_other");
    assert_eq!(db.session_as("import_other").refused(IMPORT).message, "must be owner of table asn_inventory");
    // The owner needs CREATE for the index that attaching creates.
    db.run("GRANT CREATE ON SCHEMA old TO import_owner");
    db.session_as("import_owner").run(IMPORT);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 50);
    assert_eq!(db.number("SELECT count(*) FROM enrich.attached_tables"), 1);
    db.run("DROP OWNED BY import_owner, import_other; DROP ROLE import_owner, import_other");
}

#[test]
fn a_hostile_schema_gets_no_rights_by_being_imported() {
    let mut db = database();
    db.run("CREATE ROLE import_mallory LOGIN; CREATE SCHEMA old AUTHORIZATION import_mallory; CREATE TABLE ran_as (who name, what text)");
    db.run("GRANT INSERT ON ran_as TO PUBLIC; GRANT USAGE ON SCHEMA public TO import_mallory");
    let database = db.name.clone();
    db.run(&format!("GRANT CREATE ON DATABASE {database} TO import_mallory"));
    let mut mallory = db.session_as("import_mallory");
    mallory.run("SET search_path = old");
    python_system::create(&mut mallory, "old", PythonSchema::Orm);
    mallory.run(
        r#"CREATE FUNCTION old.harm(what text) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.ran_as VALUES (current_user, what);
                 IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                     ALTER ROLE import_mallory SUPERUSER;
                 END IF;
                 BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO public.ran_as VALUES (current_user, what || ', later');
                 RETURN true;
             END $$;
           CREATE FUNCTION old.immutable_harm(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN PERFORM old.harm(what); RETURN true; END $$;
           -- Operators and functions that a careless statement of the import would find here by their names.
           CREATE FUNCTION old.more(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT old.harm('operator') $$;
           CREATE OPERATOR old.> (LEFTARG = text, RIGHTARG = text, FUNCTION = old.more);
           CREATE OPERATOR old.= (LEFTARG = text, RIGHTARG = text, FUNCTION = old.more);
           CREATE FUNCTION old.count(integer) RETURNS bigint LANGUAGE sql AS $$ SELECT old.harm('count')::int::bigint $$;
           CREATE FUNCTION old.timezone(text, timestamp) RETURNS timestamptz LANGUAGE sql AS $$ SELECT CASE WHEN old.harm('timezone') THEN now() END $$;
           -- A type with a cast of its own, a check, an index, a rule, a trigger.
           CREATE TYPE old.pair AS (a int, b int);
           CREATE FUNCTION old.pair_text(old.pair) RETURNS text LANGUAGE sql AS $$ SELECT old.harm('cast')::text $$;
           CREATE CAST (old.pair AS text) WITH FUNCTION old.pair_text(old.pair);
           CREATE FUNCTION old.pair_json(old.pair) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(old.harm('cast')) $$;
           CREATE CAST (old.pair AS jsonb) WITH FUNCTION old.pair_json(old.pair);
           ALTER TABLE old.ip_inventory DROP COLUMN enrichment;
           ALTER TABLE old.ip_inventory ADD COLUMN enrichment old.pair DEFAULT '(1,2)';
           INSERT INTO old.ip_inventory (ip_address, first_seen, last_seen) VALUES ('8.8.8.8', now(), now()), ('::ffff:8.8.8.8', now(), now());
           INSERT INTO old.session_summaries (session_id, source_ip, snapshot_asn, enrichment)
             VALUES ('a', '8.8.8.8', 15169, '{"x": "\u0000"}'), ('b', NULL, 1, '{}');
           ALTER TABLE old.session_summaries ADD CONSTRAINT harm CHECK (old.immutable_harm('check'));
           ALTER TABLE old.session_summaries ADD COLUMN harm boolean GENERATED ALWAYS AS (old.immutable_harm('generated ' || snapshot_ip_type)) STORED;
           CREATE INDEX ON old.session_summaries (old.immutable_harm('index')) WHERE old.immutable_harm('predicate');
           CREATE FUNCTION old.on_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM old.harm('trigger'); RETURN NEW; END $$;
           CREATE TRIGGER a BEFORE UPDATE ON old.session_summaries FOR EACH ROW EXECUTE FUNCTION old.on_update();
           ALTER TABLE old.session_summaries ENABLE ALWAYS TRIGGER a;
           CREATE RULE also AS ON UPDATE TO old.session_summaries DO ALSO SELECT old.harm('rule');
           CREATE POLICY harm ON old.ip_asn_history USING (old.harm('policy'));
           ALTER TABLE old.ip_asn_history ENABLE ROW LEVEL SECURITY"#,
    );
    db.run("TRUNCATE ran_as");
    // As superuser, in a session whose search_path would find mallory's objects first.
    db.run("SET search_path = old, enrich, public, pg_catalog");
    // A rule could turn the UPDATE of one table into changes of others. Rows that were imported before stay.
    let refusal = db.another().refused(IMPORT);
    assert_eq!((refusal.code.as_str(), refusal.hint.is_some()), ("0A000", true), "{refusal:?}");
    mallory.run("DROP RULE also ON old.session_summaries");
    db.run(IMPORT);
    db.run("RESET search_path");
    assert_eq!(db.one("SELECT rolsuper FROM pg_roles WHERE rolname = 'import_mallory'"), "f");
    let ran = db.rows("SELECT DISTINCT who, what FROM public.ran_as ORDER BY 2");
    eprintln!("{ran:?}");
    assert!(ran.iter().all(|row| row.starts_with("import_mallory|")), "{ran:?}");
    // The code in the check, the trigger and the index did run. Casts and operators did not run at all.
    for what in ["check", "trigger", "index"] {
        assert!(ran.contains(&format!("import_mallory|{what}")), "{what} did not run: {ran:?}");
    }
    for what in ["cast", "operator", "count", "timezone", "policy"] {
        assert!(!ran.contains(&format!("import_mallory|{what}")), "{what} ran");
    }
    assert_eq!(db.rows("SELECT ip_address FROM enrich.ip_inventory"), ["8.8.8.8"]);
    // As mallory, because planning a query on such a table already runs mallory's code.
    let document = "SELECT enrichment FROM old.session_summaries WHERE session_id = 'a'";
    assert_eq!(mallory.one(document), r#"{"x": ""}"#);

    // A policy that applies even to the owner could hide rows, so it is an error.
    db.run("ALTER TABLE old.ip_asn_history FORCE ROW LEVEL SECURITY");
    assert_eq!(db.refused(IMPORT).code, "42501");
    assert_eq!(db.one("SELECT rolsuper FROM pg_roles WHERE rolname = 'import_mallory'"), "f");
    drop(mallory);
    db.run("DROP OWNED BY import_mallory CASCADE; DROP ROLE import_mallory");
}

/// The Python system's loader stores null if an address is missing from the Python system's inventory. After the
/// import, this inventory gets no new rows.
#[test]
fn sessions_that_the_python_systems_loader_stores_after_an_import_are_attributed_by_the_documented_trigger() {
    let mut db = database();
    python_system::create(&mut db, "old", PythonSchema::Migrations);
    db.run(
        "CREATE TABLE old.raw_events (id bigserial PRIMARY KEY, session_id varchar(64), payload jsonb NOT NULL);
         CREATE INDEX ON old.raw_events (session_id)",
    );
    db.run(IMPORT);
    let load = |session: &str, address: &str, known: &str| {
        format!(
            "BEGIN;
             INSERT INTO old.raw_events (session_id, payload) VALUES
                 ('{session}', '{{\"eventid\": \"cowrie.client.version\"}}'),
                 ('{session}', '{{\"eventid\": \"cowrie.session.connect\", \"src_ip\": \"{address}\"}}');
             INSERT INTO old.session_summaries AS s (session_id, source_ip, first_event_at, event_count)
             VALUES ('{session}', {known}, '2025-11-01 12:00:00+00', 2)
             ON CONFLICT (session_id) DO UPDATE SET event_count = s.event_count + excluded.event_count,
                 source_ip = COALESCE(s.source_ip, excluded.source_ip);
             COMMIT"
        )
    };
    let snapshots =
        "SELECT session_id, source_ip, snapshot_asn, snapshot_country FROM old.session_summaries ORDER BY 1";
    db.run(&load("a", "8.8.8.8", "NULL"));
    assert_eq!(db.rows(snapshots), ["a|NULL|NULL|NULL"], "without the trigger");

    let documented = |text: &str| sql_with("docs/import.md", text).replace("python_system", "old");
    db.run(&documented("CREATE FUNCTION python_system.address_from_events()"));
    db.run(&load("b", "1.1.1.1", "NULL"));
    db.run(&load("c", "no address", "NULL"));
    db.run(&load("d", "89.160.20.1", "'89.160.20.1'"));
    assert_eq!(
        db.rows(snapshots),
        ["a|NULL|NULL|NULL", "b|1.1.1.1|13335|AU", "c|no address|NULL|NULL", "d|89.160.20.1|29518|SE"]
    );
    // A later batch of events of a session that is already stored.
    db.run(&load("b", "1.1.1.1", "NULL"));
    db.run(&documented("SET source_ip = NULL WHERE source_ip IS NULL"));
    assert_eq!(db.rows(snapshots)[..2], ["a|8.8.8.8|15169|US", "b|1.1.1.1|13335|AU"]);
    assert_counts_are_exact(&mut db, &[("old.session_summaries", "source_ip")]);
}
