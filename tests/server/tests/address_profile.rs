//! `address_profile()` collects what every table knows about one address.

use cowrie_enrich_test_mmdb::types::TypesFile;
use server_tests::database;
use server_tests::hosts::COWRIE;
use server_tests::type_files::{DAY, HOUR, ago, server, with_file};

/// jsonb sorts keys by their length, then by their bytes.
const PROFILE: &str = r#"{"city": "Mountain View", "types": [], "region": "California", "country": "US", "history": [], "network": {"prefix": null, "as_name": null, "sources": null, "asn_type": null, "asn_number": 15169, "verified_at": null, "allocated_on": null, "is_known_vpn": null, "rir_registry": "ARIN", "is_known_hosting": null, "organization_name": "GOOGLE", "organization_country": null}, "sources": {}, "waiting": [], "ip_types": [], "is_known": false, "latitude": 12.5, "last_seen": null, "longitude": -7.25, "first_seen": null, "ip_address": "8.8.8.8", "is_scanner": null, "bogon_reason": null, "dead_letters": [], "block_answers": [], "session_count": 0}"#;

#[test]
fn an_address_without_a_row_has_what_the_files_know() {
    let mut db = database();
    assert_eq!(db.one("SELECT address_profile('8.8.8.8')"), PROFILE);
    assert_eq!(
        db.one("SELECT address_profile('::ffff:10.0.0.1') ->> 'bogon_reason'"),
        "private-use (RFC 1918)"
    );
    assert_eq!(db.one("SELECT address_profile(NULL)"), "NULL");
    assert_eq!(db.refused("SELECT address_profile('8.8.8.0/24')").code, "22023");
}

#[test]
fn a_profile_has_history_sources_and_waiting_lookups() {
    let mut db = database();
    db.run(
        "SELECT ensure_asn_inventory(64500, 'Example VPN', 'SE', 'RIPE');
         INSERT INTO ip_inventory (ip_address, current_asn, session_count, first_seen, last_seen, asn_last_verified, enrichment)
         VALUES ('48.0.0.1', 64500, 7, '2024-05-01', '2024-05-03', '2024-05-02', jsonb_build_object(
             'cymru', '{\"asn\": 64500, \"prefix\": \"48.0.0.0/16\"}'::jsonb,
             'spur', '{\"infrastructure\": \"DATACENTER\"}'::jsonb,
             '_meta', jsonb_build_object(
                 'cymru', jsonb_build_object('state', 'value', 'asked_at', now() - interval '1 hour'),
                 'spur', '{\"state\": \"value\", \"asked_at\": \"yesterday\"}'::jsonb,
                 'dshield', '{\"state\": \"failed\", \"error\": \"timeout\"}'::jsonb,
                 'import', '{\"row\": 1}'::jsonb)));
         INSERT INTO ip_asn_history VALUES ('48.0.0.1', 64500, '2024-05-02', 'cymru'), ('48.0.0.1', 64501, '2024-05-01', 'maxmind');
         SELECT request_enrichment('48.0.0.1', 'cymru', 5);
         INSERT INTO enrichment_job (provider, lookup_kind, lookup_key, priority, due_at, attempts, last_error, requested_at)
         VALUES ('greynoise', 'host', '48.0.0.1', 3, 'infinity', 2, 'status 500', '2024-05-01');
         INSERT INTO job_address VALUES ('greynoise', '48.0.0.1', 'host', '48.0.0.1');
         INSERT INTO dead_letter VALUES ('dshield', '48.0.0.1', 'host', '48.0.0.1', 0, 5, 'timeout', '2024-05-01', '2024-05-02');
         INSERT INTO block_answer (provider, prefix, asn_number, network_country, document, is_absent, asked_at)
         VALUES ('cymru', '48.0.0.0/24', 64500, 'SE', '{}', false, '2024-05-02'), ('cymru', '48.0.1.0/24', 1, 'SE', '{}', false, '2024-05-02')",
    );
    let mut part = |path: &str| {
        db.one(&format!("SELECT address_profile('48.0.0.1') #- '{{waiting,0,requested_at}}' #> '{{{path}}}'"))
    };
    assert_eq!(
        part("history"),
        r#"[{"source": "maxmind", "asn_number": 64501, "observed_at": "2024-05-01T00:00:00+00:00", "organization_name": null}, {"source": "cymru", "asn_number": 64500, "observed_at": "2024-05-02T00:00:00+00:00", "organization_name": "Example VPN"}]"#
    );
    assert_eq!(
        part("network"),
        r#"{"prefix": "48.0.0.0/16", "as_name": null, "sources": {"rir_registry": "manual", "organization_name": "manual", "organization_country": "manual"}, "asn_type": "UNKNOWN", "asn_number": 64500, "verified_at": "2024-05-02T00:00:00+00:00", "allocated_on": null, "is_known_vpn": false, "rir_registry": "RIPE", "is_known_hosting": false, "organization_name": "Example VPN", "organization_country": "SE"}"#
    );
    assert_eq!(part("sources,cymru,state"), "\"value\"");
    assert_eq!(part("sources,cymru,age_seconds"), "3600");
    assert_eq!(part("sources,cymru,answer"), r#"{"asn": 64500, "prefix": "48.0.0.0/16"}"#);
    assert_eq!(part("sources,spur"), r#"{"state": "value", "answer": {"infrastructure": "DATACENTER"}}"#);
    assert_eq!(part("sources,dshield"), r#"{"error": "timeout", "state": "failed"}"#);
    assert_eq!(part("sources,import"), "NULL");
    assert_eq!(part("ip_types"), r#"["DATACENTER"]"#);
    assert_eq!(part("session_count"), "7");
    assert_eq!(part("last_seen"), "\"2024-05-03T00:00:00+00:00\"");
    assert_eq!(
        part("waiting"),
        r#"[{"state": "requested", "priority": 5, "provider": "cymru"}, {"state": "delayed", "due_at": "infinity", "attempts": 2, "priority": 3, "provider": "greynoise", "last_error": "status 500", "lookup_key": "48.0.0.1", "requested_at": "2024-05-01T00:00:00+00:00"}]"#
    );
    assert_eq!(
        part("dead_letters"),
        r#"[{"died_at": "2024-05-02T00:00:00+00:00", "attempts": 5, "provider": "dshield", "last_error": "timeout", "lookup_key": "48.0.0.1"}]"#
    );
    assert_eq!(
        part("block_answers"),
        r#"[{"prefix": "48.0.0.0/24", "asked_at": "2024-05-02T00:00:00+00:00", "provider": "cymru", "is_absent": false, "asn_number": 64500, "network_country": "SE"}]"#
    );
    // Documents that clients wrote have any shape.
    for document in [
        r#"{"_meta": 1}"#,
        r#"{"_meta": {"cymru": [1]}}"#,
        "[]",
        r#"{"_meta": {"cymru": {"asked_at": "2024-13-45T99:00:00"}}}"#,
    ] {
        db.run(&format!("UPDATE ip_inventory SET enrichment = '{document}'"));
        db.run("SELECT address_profile('48.0.0.1')");
    }
}

#[test]
fn a_profile_names_the_source_of_each_type() {
    let cluster = server("profile-types");
    let file = TypesFile::new()
        .list("tor", "TOR", ago(HOUR))
        .list("aws", "DATACENTER", ago(HOUR))
        .list("stale", "PROXY", ago(8 * DAY))
        .entry("tor", "8.8.8.8/32")
        .entry("stale", "8.8.8.8/32")
        .detailed("aws", "8.8.8.0/24", "AWS", "us-east-1", "EC2");
    let mut db = with_file(&cluster, &file);
    let aws = r#"{"type": "DATACENTER", "region": "us-east-1", "source": "aws", "is_list": true, "service": "EC2", "provider": "AWS"}"#;
    let tor = r#"{"type": "TOR", "region": null, "source": "tor", "is_list": true, "service": null, "provider": null}"#;
    let mut types = |address: &str| {
        db.one(&format!(
            "SELECT p -> 'ip_types', jsonb_agg(t - 'stated_at' ORDER BY n)
             FROM address_profile('{address}') p, jsonb_array_elements(p -> 'types') WITH ORDINALITY t(t, n)
             GROUP BY 1"
        ))
    };
    assert_eq!(types("8.8.8.9"), format!("[\"DATACENTER\"]|[{aws}]"));
    assert_eq!(types("8.8.8.8"), format!("[\"TOR\", \"DATACENTER\"]|[{aws}, {tor}]"));
    db.run(
        "INSERT INTO ip_inventory (ip_address, enrichment)
         VALUES ('8.8.8.9', '{\"spur\": {\"tunnels\": [{\"type\": \"VPN\"}], \"cached_at\": \"2026-01-02T03:04:05+00:00\"}}')",
    );
    let spur = r#"{"type": "VPN", "region": null, "source": "spur", "is_list": false, "service": null, "provider": null}"#;
    assert_eq!(
        db.one("SELECT p -> 'ip_types', p #- '{types,0,stated_at}' #- '{types,1,stated_at}' -> 'types' FROM address_profile('8.8.8.9') p"),
        format!("[\"VPN\", \"DATACENTER\"]|[{spur}, {aws}]")
    );
    assert_eq!(
        db.one("SELECT (address_profile('8.8.8.9') #>> '{types,0,stated_at}')::timestamptz"),
        "2026-01-02 03:04:05+00"
    );
}

#[test]
fn with_a_table_a_profile_has_the_sessions_of_each_day() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    for (n, (time, ip)) in [
        ("2024-05-01 00:00", "8.8.8.8"),
        ("2024-05-01 23:59", "::ffff:8.8.8.8"),
        ("2024-05-03 12:00", "8.8.8.8"),
        ("2024-05-02 12:00", "8.8.8.9"),
    ]
    .iter()
    .enumerate()
    {
        db.run(&COWRIE.insert_at(time, &[(&format!("s{n}"), Some(*ip))]));
    }
    let call = "SELECT address_profile('8.8.8.8', 'sessions') -> 'sessions_per_day'";
    let days = r#"[{"day": "2024-05-01", "sessions": 2}, {"day": "2024-05-03", "sessions": 1}]"#;
    assert_eq!(db.one(call), days);
    db.run("SET timezone = 'America/New_York'");
    assert_eq!(db.one(call), days);
    db.run("RESET timezone");
    assert_eq!(db.one("SELECT address_profile('1.1.1.1', 'sessions') -> 'sessions_per_day'"), "[]");
    assert_eq!(db.one("SELECT address_profile('8.8.8.8') ? 'sessions_per_day'"), "f");
    db.run("CREATE TABLE other (ip inet)");
    assert_eq!(db.refused("SELECT address_profile('8.8.8.8', 'other')").code, "55000");
}

#[test]
fn the_sessions_of_an_address_are_found_by_the_index() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, starttime, ip)
             SELECT n, '2024-05-01', host('16.0.0.0'::inet + n) FROM generate_series(1, 5000) n;
         SELECT index_session_table('sessions'); ANALYZE sessions",
    );
    let mut session = db.another();
    session.run("BEGIN");
    assert_eq!(
        session.one("SELECT address_profile('16.0.0.7', 'sessions') #>> '{sessions_per_day,0,sessions}'"),
        "1"
    );
    assert_eq!(
        session.one(
            "SELECT coalesce(seq_scan, 0) FROM pg_stat_xact_all_tables WHERE relid = 'sessions'::regclass"
        ),
        "0"
    );
}

#[test]
fn a_reader_needs_no_right_on_the_queue_but_one_on_the_sessions() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    let role = db.create_role("reader");
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {role}; GRANT SELECT ON attached_tables TO {role};
         GRANT EXECUTE ON FUNCTION address_profile(inet, regclass, text), attached_columns(regclass), address_facts(inet),
             session_timeline(regclass, interval, text, text, timestamptz, timestamptz, text, text) TO {role}"
    ));
    let mut session = db.session_as(&role);
    assert_eq!(session.one("SELECT enrich.address_profile('8.8.8.8') -> 'is_known'"), "true");
    let call =
        "SELECT jsonb_array_length(enrich.address_profile('8.8.8.8', 'sessions') -> 'sessions_per_day')";
    assert_eq!(session.refused(call).code, "42501");
    db.run(&format!("GRANT SELECT ON sessions TO {role}"));
    assert_eq!(session.number(call), 1);
}
