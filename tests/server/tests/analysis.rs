//! The queries for analysts: their results, the roles that may run them, and their plans.

use server_tests::database::bare_database;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::{Database, database, shared};

/// Stores sessions from three networks, and logins of two of them with the campaign's password.
fn campaign(db: &mut Database<'_>) {
    COWRIE.create_attached(db);
    db.run("SELECT enrich.set_session_table_options('sessions', NULL, true)");
    for (day, rows) in [
        ("2024-05-01", vec![("a1", "8.8.8.8"), ("b1", "139.59.0.1")]),
        (
            "2024-05-02",
            vec![("a2", "8.8.8.8"), ("a3", "8.8.8.9"), ("a4", "::ffff:8.8.8.8"), ("s1", "89.160.20.1")],
        ),
        ("2024-05-09", vec![("b2", "139.59.0.1"), ("x1", "48.0.0.1"), ("x2", "not an ip")]),
    ] {
        let rows: Vec<(&str, Option<&str>)> = rows.into_iter().map(|(key, ip)| (key, Some(ip))).collect();
        db.run(&COWRIE.insert_at(day, &rows));
    }
    db.run(
        "CREATE TABLE auth (session char(32) NOT NULL, password varchar(100) NOT NULL);
         INSERT INTO auth SELECT id, '1qaz2wsx' FROM sessions WHERE id IN ('a1', 'a2', 'a3', 'b2');
         INSERT INTO auth SELECT id, 'root' FROM sessions;
         UPDATE sessions SET snapshot_ip_type = 'VPN' WHERE id = 'b2'",
    );
    db.run("CALL fold_statistics()");
}

const THE_CAMPAIGN: &str = "$$s.id IN (SELECT a.session FROM auth a WHERE a.password = '1qaz2wsx')$$";

#[test]
fn which_networks_host_a_campaign_is_one_call() {
    let mut db = database();
    campaign(&mut db);
    assert_eq!(
        db.rows(&format!(
            "SELECT asn_number, organization_name, asn_type, countries, ip_types, sessions, addresses, first_seen, last_seen
             FROM campaign_networks('sessions', {THE_CAMPAIGN})"
        )),
        [
            "15169|GOOGLE|HOSTING|{US}|{}|3|2|2024-05-01 00:00:00+00|2024-05-02 00:00:00+00",
            "14061|DIGITALOCEAN-ASN|HOSTING|{IN}|{VPN}|1|1|2024-05-09 00:00:00+00|2024-05-09 00:00:00+00",
        ]
    );
}

#[test]
fn without_a_condition_each_network_has_one_row_and_spellings_of_an_address_are_one() {
    let mut db = database();
    campaign(&mut db);
    assert_eq!(
        db.rows(
            "SELECT asn_number, countries, ip_types, sessions, addresses FROM campaign_networks('sessions')"
        ),
        [
            "15169|{US}|{}|4|2",
            "14061|{IN}|{VPN}|2|1",
            // Two sessions. The network and the country of the first are unknown. The second has no valid
            // address.
            "NULL|{}|{}|2|1",
            "29518|{SE}|{}|1|1",
        ]
    );
}

#[test]
fn countries_and_types_of_a_network_are_lists_those_with_the_most_sessions_first() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(
        "SELECT attach_session_table('sessions', 'ip', 'starttime', trust_input => true);
         INSERT INTO sessions (id, starttime, ip, snapshot_asn, snapshot_country, snapshot_ip_type)
         SELECT n, '2024-05-01', '16.0.0.' || a, 64500, c, t
         FROM (VALUES (1, 1, 'SE', 'VPN'), (2, 1, 'DE', 'TOR'), (3, 2, 'DE', 'TOR'), (4, 3, NULL, NULL), (5, 3, 'BR', 'VPN'),
                      (6, 3, 'BR', 'VPN'), (7, 4, 'DE', 'PROXY')) v(n, a, c, t)",
    );
    assert_eq!(
        db.rows(
            "SELECT asn_number, countries, ip_types, sessions, addresses FROM campaign_networks('sessions')"
        ),
        // The address in two countries is one address.
        ["64500|{DE,BR,SE}|{VPN,TOR,PROXY}|7|4"]
    );
}

/// Returns the addresses of a campaign.
fn addresses(db: &mut Database<'_>, condition: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT ip_address, sessions, first_seen::date, last_seen::date, asn_then, organization_then, country_then,
             asn_now, organization_now, country_now, change, ip_types, is_scanner
         FROM campaign_addresses('sessions', {condition})"
    ))
}

#[test]
fn each_address_of_a_campaign_is_listed_once_with_its_network_then_and_now() {
    let mut db = database();
    campaign(&mut db);
    assert_eq!(
        addresses(&mut db, THE_CAMPAIGN),
        [
            "8.8.8.8|2|2024-05-01|2024-05-02|15169|GOOGLE|US|15169|GOOGLE|US|STABLE|{}|f",
            "8.8.8.9|1|2024-05-02|2024-05-02|15169|GOOGLE|US|15169|GOOGLE|US|STABLE|{}|f",
            "139.59.0.1|1|2024-05-09|2024-05-09|14061|DIGITALOCEAN-ASN|IN|14061|DIGITALOCEAN-ASN|IN|STABLE|{VPN}|f",
        ]
    );
    // The spelling as IPv4-mapped IPv6 is the same address. The session without an address is left out.
    let all = addresses(&mut db, "'true'");
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all[0].starts_with("8.8.8.8|3|"), "{all:?}");
    assert!(
        all.contains(
            &"48.0.0.1|1|2024-05-09|2024-05-09|NULL|NULL|NULL|NULL|NULL|NULL|UNKNOWN|{}|f".to_owned()
        ),
        "{all:?}"
    );
}

#[test]
fn the_change_of_an_address_compares_its_last_session_with_now() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(
        "SELECT attach_session_table('sessions', 'ip', 'starttime', trust_input => true);
         INSERT INTO asn_inventory (asn_number, organization_name) VALUES (64500, 'Old'), (64501, 'New');
         INSERT INTO ip_inventory (ip_address, current_asn, enrichment)
         SELECT '16.0.0.0'::inet + n, asn, jsonb_build_object('maxmind', jsonb_build_object('country', country),
             'spur', jsonb_build_object('infrastructure', 'DATACENTER'), 'greynoise', jsonb_build_object('noise', true))
         FROM (VALUES (1, 64501, 'SE'), (2, 64501, 'SE'), (3, 64501, 'SE'), (4, 64501, NULL), (5, NULL, 'SE')) v(n, asn, country);
         INSERT INTO sessions (id, starttime, ip, snapshot_asn, snapshot_country, snapshot_ip_type)
         SELECT n, '2024-05-01'::timestamp + n * interval '1 day', '16.0.0.' || a, asn, country, 'VPN'
         FROM (VALUES (1, 1, 64500, 'SE'), (2, 1, 64501, 'SE'), (3, 2, 64501, 'SE'), (4, 2, 64500, 'DE'), (5, 3, 64501, 'DE'),
                      (6, 4, 64501, 'SE'), (7, 5, 64501, 'SE'), (8, 6, 64501, 'SE')) v(n, a, asn, country)",
    );
    db.run("DELETE FROM ip_inventory WHERE ip_address = '16.0.0.6'");
    let rows = addresses(&mut db, "'true'");
    let of = |address: &str| {
        let row = rows.iter().find(|row| row.starts_with(&format!("{address}|"))).expect("it is listed");
        row.split('|').skip(4).map(str::to_owned).collect::<Vec<_>>().join("|")
    };
    assert_eq!(of("16.0.0.1"), "64501|New|SE|64501|New|SE|STABLE|{DATACENTER,VPN}|t");
    assert_eq!(of("16.0.0.2"), "64500|Old|DE|64501|New|SE|ASN_CHANGED|{DATACENTER,VPN}|t");
    assert_eq!(of("16.0.0.3"), "64501|New|DE|64501|New|SE|COUNTRY_CHANGED|{DATACENTER,VPN}|t");
    assert_eq!(of("16.0.0.4"), "64501|New|SE|64501|New|NULL|UNKNOWN|{DATACENTER,VPN}|t");
    assert_eq!(of("16.0.0.5"), "64501|New|SE|NULL|NULL|SE|UNKNOWN|{DATACENTER,VPN}|t");
    assert_eq!(of("16.0.0.6"), "64501|New|SE|NULL|NULL|NULL|UNKNOWN|{VPN}|NULL");
}

/// Each row of the truth table: recorded ASN and country, then the result. The inventory has AS64501 and SE for the
/// first address, no country for the second, no network for the third, and does not have the fourth.
#[test]
fn the_change_of_an_attribution_follows_the_truth_table() {
    let mut db = database();
    db.run(
        "INSERT INTO asn_inventory (asn_number) VALUES (64501);
         INSERT INTO ip_inventory (ip_address, current_asn, enrichment) VALUES
             ('16.0.0.1', 64501, '{\"maxmind\": {\"country\": \"SE\"}}'), ('16.0.0.2', 64501, '{}'),
             ('16.0.0.3', NULL, '{\"maxmind\": {\"country\": \"SE\"}}')",
    );
    let (same, different, unknown) = ("64501", "64500", "NULL");
    for (address, asn, country, expected) in [
        // Both current values are known.
        ("16.0.0.1", same, "'SE'", "STABLE"),
        ("16.0.0.1", same, "'DE'", "COUNTRY_CHANGED"),
        ("16.0.0.1", same, "NULL", "UNKNOWN"),
        ("16.0.0.1", different, "'SE'", "ASN_CHANGED"),
        ("16.0.0.1", different, "'DE'", "ASN_CHANGED"),
        ("16.0.0.1", different, "NULL", "ASN_CHANGED"),
        ("16.0.0.1", unknown, "'SE'", "UNKNOWN"),
        ("16.0.0.1", unknown, "'DE'", "UNKNOWN"),
        ("16.0.0.1", unknown, "NULL", "UNKNOWN"),
        // The current country is unknown.
        ("16.0.0.2", same, "'SE'", "UNKNOWN"),
        ("16.0.0.2", same, "NULL", "UNKNOWN"),
        ("16.0.0.2", different, "'SE'", "ASN_CHANGED"),
        ("16.0.0.2", unknown, "'SE'", "UNKNOWN"),
        // The current network is unknown.
        ("16.0.0.3", same, "'SE'", "UNKNOWN"),
        ("16.0.0.3", same, "'DE'", "UNKNOWN"),
        ("16.0.0.3", unknown, "NULL", "UNKNOWN"),
        // The inventory does not have the address.
        ("16.0.0.4", same, "'SE'", "UNKNOWN"),
        ("16.0.0.4", unknown, "NULL", "UNKNOWN"),
        // Spellings, and values for unknown.
        ("::ffff:16.0.0.1", same, "' se '", "STABLE"),
        ("16.0.0.1/24", same, "'SE'", "STABLE"),
        ("16.0.0.1", same, "'XX'", "UNKNOWN"),
        ("16.0.0.1", same, "'zz'", "UNKNOWN"),
        ("16.0.0.1", same, "''", "UNKNOWN"),
        ("16.0.0.1", same, "'Sweden'", "UNKNOWN"),
        ("16.0.0.1", "0", "'SE'", "UNKNOWN"),
        ("16.0.0.1", "-1", "'SE'", "UNKNOWN"),
        ("16.0.0.1", "4294967296", "'SE'", "UNKNOWN"),
    ] {
        let call = format!("SELECT attribution_change('{address}', {asn}, {country})");
        assert_eq!(db.one(&call), expected, "{call}");
    }
    assert_eq!(db.one("SELECT attribution_change(NULL, 64501, 'SE')"), "UNKNOWN");
}

#[test]
fn who_may_not_read_an_inventory_gets_addresses_without_its_values() {
    let mut db = database();
    campaign(&mut db);
    let analyst = db.create_role("analyst");
    grant_analysis(&mut db, &analyst);
    db.run(&format!("GRANT SELECT ON sessions, auth TO {analyst}"));
    let mut session = db.session_as(&analyst);
    let call = format!(
        "SELECT ip_address, asn_then, organization_then, asn_now, change, is_scanner
         FROM enrich.campaign_addresses('sessions', {THE_CAMPAIGN}) LIMIT 1"
    );
    assert_eq!(session.rows(&call), ["8.8.8.8|15169|NULL|NULL|NULL|NULL"]);
    db.run(&format!("GRANT SELECT ON enrich.asn_inventory TO {analyst}"));
    assert_eq!(session.rows(&call), ["8.8.8.8|15169|GOOGLE|NULL|NULL|NULL"]);
    db.run(&format!("GRANT SELECT ON enrich.ip_inventory TO {analyst}"));
    assert_eq!(session.rows(&call), ["8.8.8.8|15169|GOOGLE|15169|STABLE|f"]);
    db.run(&format!("REVOKE SELECT ON sessions FROM {analyst}"));
    for call in ["campaign_addresses('sessions')", "session_timeline('sessions', '1 day')"] {
        assert_eq!(session.refused(&format!("SELECT * FROM enrich.{call}")).code, "42501", "{call}");
    }
}

#[test]
fn a_condition_is_any_expression_over_the_row() {
    let mut db = database();
    campaign(&mut db);
    let mut sessions = |condition: &str| {
        db.number(&format!(
            "SELECT coalesce(sum(sessions), 0) FROM campaign_networks('sessions', $c${condition}$c$)"
        ))
    };
    assert_eq!(sessions("snapshot_country = 'IN'"), 2);
    assert_eq!(sessions("s.snapshot_country = 'IN' OR s.snapshot_asn = 29518"), 3);
    assert_eq!(sessions("starttime >= '2024-05-02' AND starttime < '2024-05-03' -- one day"), 4);
    assert_eq!(sessions("false"), 0);
    assert_eq!(sessions("s.ip = '100%' OR s.ip = '%1$s' OR s.ip = E'\\'8.8.8.8'"), 0);
}

/// Texts that are not one complete expression. Some of them would be valid inside the parentheses of a statement.
const NOT_ONE_EXPRESSION: &[&str] = &[
    " -- only a comment",
    "/* only a comment */",
    "false) OR (true",
    "false) OR EXISTS (SELECT 1",
    "true) --",
    "true) /*",
    "(true",
    "true)",
    "true;",
    "true; SELECT 1",
    "true; --",
    "true, false",
    "true AS x",
    "true x",
    "*",
    "s.*",
    "DISTINCT true",
    "ALL true",
    "SELECT true",
    "VALUES (true)",
    "true UNION SELECT true",
    "true FROM pg_class",
    "true WHERE true",
    "true GROUP BY 1",
    "true ORDER BY 1",
    "true LIMIT 1",
    "true FOR UPDATE",
    "true INTO x",
    "WITH x AS (SELECT 1) SELECT true",
    "$$",
    "true $$ OR $$",
    "$q$ unterminated",
    "'unterminated",
    "\"unterminated",
    "/* unterminated",
    // The parameters belong to the statement of the extension.
    "$1 IS NOT NULL",
    "s.id IN (SELECT x.id FROM sessions x WHERE $2 IS NOT NULL)",
];

#[test]
fn only_one_complete_expression_is_accepted() {
    let mut db = database();
    campaign(&mut db);
    for text in NOT_ONE_EXPRESSION {
        for call in [
            "campaign_networks('sessions', $t${}$t$)",
            "campaign_addresses('sessions', $t${}$t$)",
            "campaign_addresses('sessions', $t${}$t$, since => '2024-05-01')",
            "campaign_query('sessions', $t${}$t$)",
            "session_timeline('sessions', '1 day', condition => $t${}$t$)",
            "set_session_priority('sessions', $t${}$t$)",
        ] {
            let refusal = db.refused(&format!("SELECT * FROM {}", call.replace("{}", text)));
            assert_eq!(refusal.code, "42601", "{call}, {text}: {refusal:?}");
            assert!(refusal.message.starts_with("invalid expression: "), "{call}, {text}: {refusal:?}");
            // A condition of a campaign is not an expression of a select list.
            let expected = if call.starts_with("set_") { "as in a select list" } else { "as after WHERE" };
            let hint = refusal.hint.as_deref().unwrap_or_default();
            assert!(hint.contains(expected), "{call}, {text}: {refusal:?}");
        }
    }
}

#[test]
fn an_accepted_condition_selects_the_same_sessions_as_a_plain_query() {
    let mut db = database();
    campaign(&mut db);
    for condition in [
        "(false) OR (true)",
        "false OR s.snapshot_country = 'IN'",
        "/* ( */ s.snapshot_country = 'IN' /* ) */",
        "s.snapshot_country = 'IN' -- ) OR (true",
        "$$IN$$ = s.snapshot_country",
        "s.ip <> ') OR (true' AND s.snapshot_country = E'IN'",
        "s.id IN (SELECT x.id FROM sessions x WHERE x.snapshot_asn = 15169)",
        "EXISTS (SELECT FROM auth a WHERE a.session = s.id AND a.password = '1qaz2wsx')",
        "(SELECT s.snapshot_country = 'US')",
        "CASE WHEN s.snapshot_asn = 15169 THEN true END",
        "s.ip LIKE '%;--%' OR s.ip = '8.8.8.9'",
        "s.ip = '@table@' OR s.ip = '@condition@'",
        "NOT s.snapshot_country = 'US'",
    ] {
        let expected = db.one(&format!("SELECT count(*) FROM sessions s WHERE (\n{condition}\n)"));
        let summed = |call: &str| {
            let call = call.replace("{}", condition);
            format!("SELECT coalesce(sum(sessions), 0) FROM {call}")
        };
        assert_eq!(db.one(&summed("campaign_networks('sessions', $c${}$c$)")), expected, "{condition}");
        assert_eq!(
            db.one(&summed("session_timeline('sessions', '1 day', condition => $c${}$c$)")),
            expected,
            "{condition}"
        );
        // Sessions without an address are not in this result.
        let with_address = db.one(&format!(
            "SELECT count(*) FROM sessions s WHERE session_address(s.ip) IS NOT NULL AND (\n{condition}\n)"
        ));
        assert_eq!(db.one(&summed("campaign_addresses('sessions', $c${}$c$)")), with_address, "{condition}");
    }
}

#[test]
fn a_condition_that_is_none_is_refused() {
    let mut db = database();
    campaign(&mut db);
    for (condition, code) in [
        ("s.no_such_column = 1", "42703"),
        ("s.id", "42804"),
        ("", "42601"),
        ("true; DROP TABLE sessions", "42601"),
        ("true); DROP TABLE sessions; --", "42601"),
        ("EXISTS (WITH d AS (DELETE FROM sessions RETURNING 1) SELECT FROM d)", "0A000"),
    ] {
        for function in ["campaign_networks", "campaign_addresses"] {
            let refusal = db.refused(&format!("SELECT * FROM {function}('sessions', $c${condition}$c$)"));
            assert_eq!(refusal.code, code, "{condition}: {refusal:?}");
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 9);
    for call in [
        "campaign_networks(NULL)",
        "campaign_networks('sessions', NULL)",
        "campaign_addresses(NULL)",
        "campaign_addresses('sessions', NULL)",
    ] {
        assert_eq!(db.refused(&format!("SELECT * FROM {call}")).code, "22004");
    }
    db.run("CREATE TABLE other (ip inet)");
    for call in ["SELECT * FROM campaign_networks('other')", "SELECT session_index_commands('other')"] {
        let refusal = db.refused(call);
        assert_eq!(refusal.code, "55000");
        assert_eq!(refusal.hint.as_deref(), Some("Call attach_session_table() for the table first."));
    }
}

#[test]
fn the_network_of_the_attack_stays_when_the_address_moves() {
    let mut db = database();
    campaign(&mut db);
    db.run(
        "SELECT ensure_asn_inventory(64500, 'Example VPN', 'SE', 'RIPE');
         UPDATE ip_inventory SET current_asn = 64500 WHERE ip_address = '8.8.8.8';
         INSERT INTO ip_asn_history VALUES
             ('8.8.8.8', 64500, now() + interval '1 hour', 'cymru'),
             ('8.8.8.8', 64500, now() + interval '2 hours', 'maxmind'),
             ('8.8.8.8', 15169, now() + interval '3 hours', 'cymru')",
    );
    assert_eq!(
        db.one("SELECT asn_number, sessions FROM campaign_networks('sessions', 's.snapshot_asn = 15169')"),
        "15169|4"
    );
    assert_eq!(
        db.rows(
            "SELECT ip_address, asn_before, organization_before, asn_after, organization_after, verification_source
             FROM moved_addresses ORDER BY moved_at"
        ),
        ["8.8.8.8|15169|GOOGLE|64500|Example VPN|cymru", "8.8.8.8|64500|Example VPN|15169|GOOGLE|cymru"]
    );
    assert_eq!(
        db.rows("SELECT asn_after FROM moved_addresses WHERE moved_at > now() + interval '150 minutes'"),
        ["15169"]
    );
}

#[test]
fn partitions_and_tables_without_a_time_can_be_asked() {
    let mut db = database();
    db.run(
        "CREATE TABLE events (at date NOT NULL, peer varchar(61)) PARTITION BY RANGE (at);
         CREATE TABLE events_may PARTITION OF events FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
         CREATE TABLE events_june PARTITION OF events FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
         SELECT attach_session_table('events', 'peer', 'at');
         INSERT INTO events VALUES ('2024-05-03', '8.8.8.8'), ('2024-06-03', '8.8.8.8');
         CREATE TABLE bare (\"source ip\" inet);
         SELECT attach_session_table('bare', 'source ip');
         INSERT INTO bare VALUES ('8.8.8.8')",
    );
    let mut answer = |rel: &str| {
        db.one(&format!("SELECT asn_number, sessions, first_seen, last_seen FROM campaign_networks('{rel}')"))
    };
    assert_eq!(answer("events"), "15169|2|2024-05-03 00:00:00+00|2024-06-03 00:00:00+00");
    assert_eq!(answer("events_june"), "15169|1|2024-06-03 00:00:00+00|2024-06-03 00:00:00+00");
    assert_eq!(answer("bare"), "15169|1|NULL|NULL");
    for rel in ["events", "bare"] {
        db.run(&format!("SELECT index_session_table('{rel}')"));
        assert_eq!(db.rows(&format!("SELECT session_index_commands('{rel}')")), [""; 0]);
    }
}

/// Grants the privileges that `docs/analysis.md` tells to grant.
fn grant_analysis(db: &mut Database<'_>, role: &str) {
    db.run(&format!(
        "GRANT USAGE ON SCHEMA enrich TO {role};
         GRANT SELECT ON attached_tables, network_activity, moved_addresses,
             persistent_addresses TO {role};
         GRANT EXECUTE ON FUNCTION campaign_networks(regclass, text, text), campaign_query(regclass, text, text),
             campaign_addresses(regclass, text, text, timestamptz),
             session_timeline(regclass, interval, text, text, timestamptz, timestamptz, text, text) TO {role}"
    ));
}

#[test]
fn who_may_read_sessions_but_no_inventory_gets_networks_without_names() {
    let mut db = database();
    campaign(&mut db);
    let analyst = db.create_role("analyst");
    grant_analysis(&mut db, &analyst);
    db.run(&format!("GRANT SELECT ON sessions, auth TO {analyst}"));
    let mut session = db.session_as(&analyst);
    let call = format!(
        "SELECT asn_number, organization_name, asn_type, sessions
                        FROM enrich.campaign_networks('sessions', {THE_CAMPAIGN})"
    );
    assert_eq!(session.rows(&call), ["15169|NULL|NULL|3", "14061|NULL|NULL|1"]);
    assert_eq!(session.refused("SELECT * FROM enrich.asn_inventory").code, "42501");
    // The role may read the views, although it may not read `asn_inventory`.
    assert_eq!(session.number("SELECT count(*) FROM enrich.network_activity"), 3);

    db.run(&format!("GRANT SELECT ON enrich.asn_inventory TO {analyst}"));
    assert_eq!(session.rows(&call), ["15169|GOOGLE|HOSTING|3", "14061|DIGITALOCEAN-ASN|HOSTING|1"]);
}

#[test]
fn who_may_read_the_inventories_but_no_sessions_gets_none() {
    let mut db = database();
    campaign(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    let analyst = db.create_role("analyst");
    grant_analysis(&mut db, &analyst);
    db.run(&format!(
        "GRANT SELECT ON asn_inventory, ip_inventory, ip_asn_history, session_summaries TO {analyst}"
    ));
    let mut session = db.session_as(&analyst);
    for condition in ["true", "s.id IN (SELECT a.session FROM auth a)"] {
        let refusal =
            session.refused(&format!("SELECT * FROM enrich.campaign_networks('sessions', '{condition}')"));
        assert_eq!(refusal.code, "42501");
    }
    // The right to read one table does not give access to another one in the condition.
    let refusal = session.refused(
        "SELECT * FROM enrich.campaign_networks('session_summaries', 'EXISTS (SELECT FROM auth a)')",
    );
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("42501", "permission denied for table auth")
    );
    assert_eq!(
        session
            .rows("SELECT asn_number, organization_name FROM enrich.campaign_networks('session_summaries')"),
        ["15169|GOOGLE"]
    );
}

#[test]
fn policies_of_a_session_table_hold_for_the_reader() {
    let mut db = database();
    campaign(&mut db);
    let analyst = db.create_role("analyst");
    grant_analysis(&mut db, &analyst);
    db.run(&format!(
        "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY swedish ON sessions TO {analyst} USING (snapshot_country = 'SE');
         GRANT SELECT ON sessions TO {analyst}"
    ));
    let mut session = db.session_as(&analyst);
    assert_eq!(
        session.rows("SELECT asn_number, sessions FROM enrich.campaign_networks('sessions')"),
        ["29518|1"]
    );
}

#[test]
fn nothing_in_the_callers_schema_is_used_but_by_the_condition() {
    let mut db = database();
    campaign(&mut db);
    db.run(
        "CREATE SCHEMA evil; CREATE SEQUENCE evil.visits;
         CREATE FUNCTION evil.same(a bigint, b bigint) RETURNS boolean LANGUAGE sql AS
             $$ SELECT nextval('evil.visits') > 0 $$;
         CREATE OPERATOR evil.= (leftarg = bigint, rightarg = bigint, function = evil.same);
         CREATE OPERATOR evil.<> (leftarg = bigint, rightarg = bigint, function = evil.same);
         CREATE FUNCTION evil.count(bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('evil.visits') $$;
         CREATE FUNCTION evil.min(timestamptz) RETURNS timestamptz LANGUAGE sql AS $$ SELECT nextval('evil.visits'); SELECT now() $$;
         CREATE FUNCTION evil.round(numeric, integer) RETURNS numeric LANGUAGE sql AS $$ SELECT nextval('evil.visits'); SELECT 6.6 $$;
         CREATE DOMAIN evil.text AS bigint;
         CREATE TABLE evil.asn_inventory (LIKE enrich.asn_inventory);
         CREATE TABLE evil.attached_tables (LIKE enrich.attached_tables)",
    );
    let mut session = db.cluster.session_with(&db.name, "postgres", "evil,pg_catalog,public,enrich");
    assert_eq!(session.rows(&format!("SELECT asn_number, organization_name, sessions FROM enrich.campaign_networks('public.sessions', {THE_CAMPAIGN})")),
        ["15169|GOOGLE|3", "14061|DIGITALOCEAN-ASN|1"]);
    assert_eq!(
        session.rows("SELECT sum(sessions) FROM enrich.campaign_addresses('public.sessions', 's.snapshot_country IS NOT NULL')"),
        ["7"]
    );
    for bucket in ["6 hours", "7 days", "1 month", "2 months"] {
        let timeline = format!(
            "SELECT sum(sessions) FROM enrich.session_timeline('public.sessions', '{bucket}', 'network', 'Europe/Berlin',
                 '2024-01-01', '2025-01-01', 's.snapshot_country IS NOT NULL', 'Europe/Paris')"
        );
        assert_eq!(session.rows(&timeline), ["7"]);
    }
    for view in [
        "network_activity",
        "moved_addresses",
        "persistent_addresses",
        "default_schedule",
        "unsafe_foreign_keys",
    ] {
        session.run(&format!("SELECT * FROM enrich.{view}"));
    }
    session.run("SELECT enrich.index_session_table('public.sessions')");
    assert_eq!(db.one("SELECT is_called FROM evil.visits"), "f", "hostile functions were called");
    session.run("SELECT enrich.campaign_networks('public.sessions', 's.snapshot_asn = 1::bigint')");
    assert_eq!(db.one("SELECT is_called FROM evil.visits"), "t", "the condition is the caller's own");
}

#[test]
fn networks_are_listed_by_activity_with_their_part_of_it() {
    let mut db = database();
    campaign(&mut db);
    assert_eq!(
        db.rows(
            "SELECT asn_number, organization_name, organization_country, asn_type, is_known_hosting, is_known_vpn,
                 unique_ip_count, total_session_count, session_percent, first_seen, last_seen
             FROM network_activity LIMIT 2"
        ),
        [
            "15169|GOOGLE|US|HOSTING|t|f|2|4|57.1429|2024-05-01 00:00:00+00|2024-05-02 00:00:00+00",
            "14061|DIGITALOCEAN-ASN|IN|HOSTING|t|f|1|2|28.5714|2024-05-01 00:00:00+00|2024-05-09 00:00:00+00",
        ]
    );
    db.run("DELETE FROM sessions");
    db.run("CALL fold_statistics()");
    assert_eq!(
        db.rows("SELECT DISTINCT total_session_count, session_percent FROM network_activity"),
        ["0|NULL"]
    );
}

#[test]
fn addresses_that_stay_are_listed_longest_first() {
    let mut db = database();
    campaign(&mut db);
    assert_eq!(
        db.rows(
            "SELECT ip_address, current_asn, organization_name, asn_type, geo_country, ip_types, is_scanner,
                 session_count, first_seen, last_seen, seen_over, sessions_per_day
             FROM persistent_addresses"
        ),
        [
            "139.59.0.1|14061|DIGITALOCEAN-ASN|HOSTING|IN|{}|f|2|2024-05-01 00:00:00+00|2024-05-09 00:00:00+00|8 days|0.3",
            "8.8.8.8|15169|GOOGLE|HOSTING|US|{}|f|3|2024-05-01 00:00:00+00|2024-05-02 00:00:00+00|1 day|3.0",
        ]
    );
    assert_eq!(
        db.rows("SELECT ip_address FROM persistent_addresses WHERE seen_over > '7 days'"),
        ["139.59.0.1"]
    );
}

#[test]
fn at_scale_the_questions_are_answered_from_indexes() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
             SELECT n, '16.0.0.0'::inet + n % 4000, timestamptz '2024-01-01' + n * interval '10 min'
             FROM generate_series(1, 40000) n;
         SELECT attach_session_table('session_summaries', 'source_ip', 'first_event_at', trust_input => true);
         UPDATE session_summaries SET snapshot_asn = 1 + session_id::int % 900,
             snapshot_country = chr(65 + session_id::int % 26) || 'A',
             snapshot_ip_type = CASE session_id::int % 50 WHEN 0 THEN 'VPN' END;
         INSERT INTO asn_inventory (asn_number, total_session_count) SELECT n, n FROM generate_series(1, 1000) n;
         INSERT INTO ip_inventory (ip_address, current_asn, first_seen, last_seen)
             SELECT '16.0.0.0'::inet + n, 1 + n % 900, '2024-01-01', timestamptz '2024-01-01' + n * interval '1 min'
             FROM generate_series(0, 3999) n;
         INSERT INTO ip_asn_history
             SELECT '16.0.0.0'::inet + n, 1, timestamptz '2024-01-01' + n * interval '1 min', 'maxmind'
             FROM generate_series(0, 3999) n;
         INSERT INTO ip_asn_history SELECT '16.0.0.7', 2, '2024-02-01', 'cymru'",
    );
    let commands = db.rows("SELECT session_index_commands('session_summaries')");
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in &commands {
        db.run(command);
    }
    for table in ["session_summaries", "asn_inventory", "ip_inventory", "ip_asn_history"] {
        db.run(&format!("VACUUM (ANALYZE) {table}"));
    }
    let only = |index: &str| {
        format!("Index Only Scan using session_summaries_cowrie_enrich_{index} on session_summaries s")
    };
    for (condition, index) in [
        ("s.snapshot_country = 'CA'", "by_country"),
        ("s.snapshot_asn IN (7, 9) AND s.first_event_at >= '2024-03-01'", "by_network"),
        ("s.first_event_at >= '2024-03-01' AND s.first_event_at < '2024-03-08'", "by_time"),
        ("s.snapshot_ip_type = 'VPN'", "by_ip_type"),
    ] {
        let query = db.one(&format!("SELECT campaign_query('session_summaries', $c${condition}$c$)"));
        assert_plan(&mut db, &query, &only(index));
    }
    // With this setting, as for an SSD, the planner compares the network at the time of the attack with the
    // network now by one merge join of two indexes.
    db.run("SET random_page_cost = 1.1");
    assert_plan(
        &mut db,
        "SELECT count(*) FROM session_summaries s
         JOIN ip_inventory i ON i.ip_address = session_address(s.source_ip)
         WHERE s.snapshot_asn <> i.current_asn",
        &only("by_address"),
    );
    assert_plan(
        &mut db,
        "SELECT * FROM moved_addresses WHERE asn_after = 2",
        "Index Only Scan using ip_asn_history_pkey on ip_asn_history p",
    );
    assert_eq!(db.rows("SELECT ip_address, asn_before, asn_after FROM moved_addresses"), ["16.0.0.7|1|2"]);
}

#[test]
fn the_index_by_address_serves_conditions_on_session_address() {
    const WRITTEN: &str = "(VALUES ('8.8.8.8'), ('::ffff:8.8.8.8'), ('1.1.1.1'), ('2001:db8::1')) w(ip)";
    const MALFORMED: &str =
        "(VALUES (' 8.8.8.8 '), ('::FFFF:808:808'), (''), ('not an ip'), ('0.0.0.0/0'), (NULL)) w(ip)";
    let mut db = database();
    for (address_type, wanted) in [("text", 4), ("varchar(61)", 4), ("char(61)", 4), ("inet", 3)] {
        let malformed =
            if address_type == "inet" { "(VALUES ('8.8.8.8/24'), (NULL)) w(ip)" } else { MALFORMED };
        db.run(&format!(
            "DROP TABLE IF EXISTS s;
             CREATE TABLE s (id serial, ip {address_type}, seen timestamptz);
             SELECT attach_session_table('s', 'ip', 'seen'), index_session_table('s');
             INSERT INTO s (ip) SELECT ip::{address_type} FROM {WRITTEN};
             INSERT INTO s (ip) SELECT ip::{address_type} FROM {malformed};
             ANALYZE s; SET enable_seqscan = off"
        ));
        let query = "SELECT count(*) FROM s WHERE session_address(ip) = '8.8.8.8'";
        assert_plan(&mut db, query, "using s_cowrie_enrich_by_address on s");
        assert_plan(&mut db, query, "Index Cond: (");
        assert_eq!(db.number(query), wanted, "{address_type}");
        assert_eq!(
            db.rows("SELECT session_address(ip) FROM s WHERE id IN (3, 4) ORDER BY id"),
            ["1.1.1.1", "2001:db8::1"]
        );
        let nulls = if address_type == "inet" { 1 } else { 4 };
        assert_eq!(
            db.number("SELECT count(*) FROM s WHERE session_address(ip) IS NULL"),
            nulls,
            "{address_type}"
        );
    }
}

#[track_caller]
fn assert_plan(db: &mut Database<'_>, query: &str, node: &str) {
    let plan = db.rows(&format!("EXPLAIN (COSTS off) {query}")).join("\n");
    assert!(plan.contains(node), "{node} is not in the plan of {query}:\n{plan}");
}

#[test]
fn indexes_are_made_once_and_a_failed_one_again() {
    let mut db = database();
    campaign(&mut db);
    let commands = db.rows("SELECT session_index_commands('sessions')");
    assert_eq!(commands.len(), 5);
    for command in &commands {
        assert!(command.starts_with("CREATE INDEX CONCURRENTLY sessions_cowrie_enrich_by_"), "{command}");
        assert!(command.contains(" ON public.sessions ("), "{command}");
    }
    db.run("SELECT index_session_table('sessions')");
    assert_eq!(db.rows("SELECT session_index_commands('sessions')"), [""; 0]);
    // Attaching again leaves them alone.
    COWRIE.attach(&mut db);
    assert_eq!(db.rows("SELECT session_index_commands('sessions')"), [""; 0]);

    db.run(
        "UPDATE pg_index SET indisvalid = false
         WHERE indexrelid = 'sessions_cowrie_enrich_by_time'::regclass",
    );
    let again = db.rows("SELECT session_index_commands('sessions')");
    assert_eq!(again[0], "DROP INDEX CONCURRENTLY public.sessions_cowrie_enrich_by_time");
    assert_eq!(again.len(), 2, "{again:?}");
    for command in &again {
        db.run(command);
    }
    assert_eq!(db.rows("SELECT session_index_commands('sessions')"), [""; 0]);
}

#[test]
fn tables_whose_names_begin_alike_have_indexes_of_their_own() {
    let mut db = database();
    let long = "sessions_of_the_honeypot_that_stands_at_the_gate";
    let japanese = "セッション".repeat(4);
    for table in [format!("{long}_a"), format!("{long}_b"), japanese] {
        db.run(&format!(
            "CREATE TABLE \"{table}\" (source_ip inet, at timestamptz);
             SELECT attach_session_table('\"{table}\"', 'source_ip', 'at'), index_session_table('\"{table}\"')"
        ));
        assert_eq!(db.rows(&format!("SELECT session_index_commands('\"{table}\"')")), [""; 0]);
    }
    assert_eq!(db.number("SELECT count(*) FROM pg_class WHERE relname LIKE '%cowrie\\_enrich\\_by\\_%'"), 15);
}

#[test]
fn only_a_tables_owner_can_index_it() {
    let mut db = database();
    campaign(&mut db);
    let analyst = db.create_role("analyst");
    grant_analysis(&mut db, &analyst);
    db.run(&format!(
        "GRANT SELECT ON sessions TO {analyst};
         GRANT EXECUTE ON FUNCTION index_session_table(regclass), session_index_commands(regclass, boolean) TO {analyst}"
    ));
    let refusal = db.session_as(&analyst).refused("SELECT enrich.index_session_table('sessions')");
    assert_eq!(refusal.code, "42501");
}

#[test]
fn it_works_from_any_schema() {
    for schema in ["Quoted Schema", "select", "with.dot", "per%cent"] {
        let mut db = bare_database(shared());
        db.run(&format!("CREATE SCHEMA \"{schema}\"; CREATE EXTENSION cowrie_enrich SCHEMA \"{schema}\""));
        db.run(&format!(
            "CREATE TABLE s (source_ip inet, at timestamptz);
             SELECT \"{schema}\".attach_session_table('s', 'source_ip', 'at'), \"{schema}\".index_session_table('s');
             INSERT INTO s VALUES ('8.8.8.8', '2024-05-01')"
        ));
        let query =
            format!("SELECT asn_number, organization_name FROM \"{schema}\".campaign_networks('s', 'true')");
        assert_eq!(db.rows(&query), ["15169|GOOGLE"], "{schema}");
        for view in ["network_activity", "moved_addresses", "persistent_addresses"] {
            db.run(&format!("SELECT * FROM \"{schema}\".{view}"));
        }
        for command in db.rows(&format!(
            "SELECT command FROM \"{schema}\".default_schedule WHERE command ~ '^(CALL|SELECT)'"
        )) {
            db.run(&command);
        }
    }
}
